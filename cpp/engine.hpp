// The backend's operations on plain pointers: how each is cut into items and shared out over threads.
//
// Items are cut so that each output is computed whole by one item, in an order that depends on nothing else; so results
// do not depend on the batch or the threads.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "expert_reader.hpp"
#include "kernels.hpp"
#include "matrix.hpp"
#include "memory.hpp"
#include "thread_pool.hpp"

namespace stride {

// Inputs that stay in the second-level cache while tiles go by.
constexpr int64_t token_block = 64;
// Weights of one item: short enough to share out evenly, long enough to be read as one stream.
constexpr int64_t item_bytes = 256 << 10;

// A layer's keys and values: [page][kv head] in KVLayout.
class KVPool {
public:
    KVPool(int64_t n_pages, int64_t n_heads, const KVLayout& layout)
        : layout(layout), n_pages(n_pages), n_heads(n_heads), data_(static_cast<size_t>(n_bytes()), true) {}

    int64_t n_bytes() const { return n_pages * n_heads * layout.head_bytes; }
    uint8_t* head(int64_t page, int64_t head) const {
        return data_.data() + (page * n_heads + head) * layout.head_bytes;
    }

    const KVLayout layout;
    const int64_t n_pages, n_heads;

private:
    Region data_;
};

// The matrices of one SwiGLU, or of a stack of experts.
struct GatedMatrices {
    TileStack gate, up, down;
    float limit;
    // Of a stack that is streamed: each expert's place, or -1 where it is no part of this pass, and who says whether its
    // parts are there. Otherwise nullptr: all experts are in memory, each at the place of its number.
    const int32_t* slots = nullptr;
    ExpertReader* reader = nullptr;
};

// Which tokens go to which positions and pages; see stride.ops.api.Batch.
struct BatchView {
    int64_t n_tokens, n_rows, pages_per_row;
    const int32_t* positions;
    const int32_t* row_starts;
    const int32_t* page_table;
};

struct RopeView {
    const float* cos_sin;  // [n][2][pairs]
    int64_t pairs;
    bool adjacent;
};

struct RoutingView {
    int64_t top_k;
    bool softmax, normalize;
    float scale;
};

class Engine {
public:
    Engine(const Kernels& kernels, int n_threads);

    const Kernels& kernels() const { return kernels_; }
    int n_threads() const { return pool_.n_threads(); }

    int64_t read(Matrix& matrix, int file, int64_t offset, bool keep_cached);
    int populate(const Matrix& matrix);
    uint64_t read_through(const Matrix& matrix);
    void embed(const Matrix& table, const int32_t* ids, int64_t n, float* out);
    void add(float* x, const float* delta, int64_t n, int64_t dim);
    // stride: distance of two rows of `out`
    void norm(const float* x, const float* weight, float epsilon, int64_t n, int64_t dim, float* out, int64_t stride);
    void linear(const float* x, int64_t n, const std::vector<const Matrix*>& weights,
                const std::vector<const float*>& biases, const std::vector<float*>& outs);
    // A streamed stack may be computed in several passes, of ascending experts, which add up in `out`; the shared expert
    // comes with the last. ReadError: an expert could not be read.
    void gated(const float* x, int64_t n, const int32_t* ids, const float* weights, int64_t top_k,
               const GatedMatrices* routed, const GatedMatrices* shared, float* out, bool is_first_pass = true);
    void route(const float* x, int64_t n, const Matrix& router, const float* bias, const RoutingView& routing,
               int32_t* ids, float* weights);
    // q, k: [n, heads * key_dim]; the result is written to `out`
    void rope_and_store(const float* q, const float* k, const float* v, int64_t q_heads, const float* q_norm,
                        const float* k_norm, float epsilon, const RopeView& rope, KVPool& pool, const BatchView& batch,
                        float* out);
    // window 0: none. gate may be null.
    void attention(const float* q, int64_t q_heads, const KVPool& pool, const BatchView& batch, int64_t window,
                   float scale, const float* gate, float* out);

private:
    // One token's input of a matrix: what its format works on.
    struct Inputs {
        std::vector<const void*> quantized, plain;
        const void* const* of(const MatrixShape& matrix) const {
            return matrix.format().quantized ? quantized.data() : plain.data();
        }
    };
    // Some rows of a matrix for some inputs: out[t * stride + row - first_row]. first_row is a multiple of tile_rows.
    struct Product {
        const MatrixShape* shape;
        const uint8_t* tiles;  // of the matrix
        int64_t first_row, n_rows;
        const void* const* inputs;
        int64_t n_tokens;
        const float* bias;  // or nullptr
        float* out;
        int64_t stride;
    };
    struct Group;   // tokens that go through the same gated matrices
    struct Span;    // queries of one key/value head
    struct Scratch {
        Buffer<float> floats, more_floats;
    };

    Inputs prepare(const float* x, int64_t n, int64_t columns, bool any_quantized);
    Scratch& scratch(int thread) { return scratch_[static_cast<size_t>(thread)]; }
    // One tile for n inputs: out[t * tile_rows + row]. next: as in TileKernel.
    void multiply(const MatrixShape& shape, const uint8_t* tile, const void* const* inputs, int64_t n, float* out,
                  const uint8_t* next) const;
    void multiply(const std::vector<Product>& products);
    static int64_t tiles_per_item(const Group& group, int64_t n_bytes);
    void compute_hidden(const std::vector<const Group*>& groups);
    void multiply_down(const std::vector<const Group*>& groups, int64_t first_row, int64_t n_rows, float* out,
                       int64_t stride);
    void compute_arriving(const std::vector<const Group*>& groups, int64_t n_rows, float* products);
    void linear_unlocked(const float* x, int64_t n, const std::vector<const Matrix*>& weights,
                         const std::vector<const float*>& biases, const std::vector<float*>& outs);
    void choose(float* scores, int64_t n_experts, const float* bias, const RoutingView& routing, int32_t* ids,
                float* weights) const;

    const Kernels& kernels_;
    ThreadPool pool_;
    std::mutex mutex_;  // one operation at a time: the scratch memory is shared
    std::vector<Scratch> scratch_;
    Buffer<Activation> inputs_, hidden_codes_;
    Buffer<float> hidden_, partial_;
};

}  // namespace stride
