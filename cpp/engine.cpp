// Operations on whole rows: embedding, norms, linear maps, routing.
#include "engine.hpp"

#include <algorithm>
#include <cmath>

#include "probe.hpp"

namespace stride {

namespace {

constexpr float smallest_weight_sum = 6.103515625e-5f;  // as in llama.cpp: the smallest normal float16

}  // namespace

Engine::Engine(const Kernels& kernels, int n_threads)
    : kernels_(kernels), pool_(n_threads), scratch_(static_cast<size_t>(n_threads)) {}

int64_t Engine::read(Matrix& matrix, int file, int64_t offset, bool keep_cached) {
    const std::lock_guard lock(mutex_);
    return matrix.read(pool_, file, offset, keep_cached);
}

int Engine::populate(const Matrix& matrix) {
    const std::lock_guard lock(mutex_);
    return matrix.populate(pool_);
}

uint64_t Engine::read_through(const Matrix& matrix) {
    const std::lock_guard lock(mutex_);
    return stride::read_through(pool_, matrix.data(), matrix.n_bytes());
}

void Engine::embed(const Matrix& table, const int32_t* ids, int64_t n, float* out) {
    const std::lock_guard lock(mutex_);
    pool_.run(n, [&](int64_t t, int) { table.row(0, ids[t], out + t * table.columns()); });
}

void Engine::add(float* x, const float* delta, int64_t n, int64_t dim) {
    const std::lock_guard lock(mutex_);
    pool_.run(n, [&](int64_t t, int) { kernels_.add(x + t * dim, delta + t * dim, dim); });
}

void Engine::norm(const float* x, const float* weight, float epsilon, int64_t n, int64_t dim, float* out,
                  int64_t stride) {
    const std::lock_guard lock(mutex_);
    pool_.run(n, [&](int64_t t, int) { kernels_.rms_norm(x + t * dim, weight, dim, epsilon, out + t * stride); });
}

Engine::Inputs Engine::prepare(const float* x, int64_t n, int64_t columns, bool any_quantized) {
    Inputs inputs;
    for (int64_t t = 0; t < n; ++t) inputs.plain.push_back(x + t * columns);
    if (!any_quantized) return inputs;
    const int64_t blocks = columns / block_columns;
    Activation* codes = inputs_.get(n * blocks);
    for (int64_t t = 0; t < n; ++t) inputs.quantized.push_back(codes + t * blocks);
    pool_.run(n, [&](int64_t t, int) { kernels_.quantize(x + t * columns, columns, codes + t * blocks); });
    return inputs;
}

void Engine::multiply(const MatrixShape& shape, const uint8_t* tile, const void* const* inputs, int64_t n, float* out,
                      const uint8_t* next) const {
    kernels_.tile(shape.format().type)(tile, shape.columns(), inputs, n, out, next);
}

void Engine::multiply(const std::vector<Product>& products) {
    struct Item {
        const Product* product;
        int64_t first_token, first_tile, n_tiles;
    };
    std::vector<Item> items;
    for (const Product& product : products) {
        const int64_t first_tile = product.first_row / tile_rows;
        const int64_t end_tile = (product.first_row + product.n_rows + tile_rows - 1) / tile_rows;
        const int64_t step = std::max<int64_t>(1, item_bytes / product.shape->tile_bytes());
        for (int64_t token = 0; token < product.n_tokens; token += token_block)
            for (int64_t tile = first_tile; tile < end_tile; tile += step)
                items.push_back({&product, token, tile, std::min(step, end_tile - tile)});
    }
    for (Scratch& own : scratch_) own.floats.get(token_block * tile_rows);
    const auto n_items = static_cast<int64_t>(items.size());
    const auto tile_of = [](const Item& item, int64_t tile) {
        return item.product->tiles + tile * item.product->shape->tile_bytes();
    };

    pool_.run(n_items, [&](int64_t i, int thread) {
        const Item& item = items[static_cast<size_t>(i)];
        const Product& product = *item.product;
        const Item* next_item = i + 1 < n_items ? &item + 1 : nullptr;  // if this thread goes on with its own stretch
        const uint8_t* next_start = next_item == nullptr ? nullptr : tile_of(*next_item, next_item->first_tile);
        const int64_t n_tokens = std::min(token_block, product.n_tokens - item.first_token);
        float* values = scratch(thread).floats.get(token_block * tile_rows);
        const int64_t end_tile = item.first_tile + item.n_tiles;
        for (int64_t tile = item.first_tile; tile < end_tile; ++tile) {
            multiply(*product.shape, tile_of(item, tile), product.inputs + item.first_token, n_tokens, values,
                     tile + 1 < end_tile ? tile_of(item, tile + 1) : next_start);
            const int64_t row = tile * tile_rows - product.first_row;
            const int64_t n_rows = std::min<int64_t>(tile_rows, product.n_rows - row);
            float* out = product.out + item.first_token * product.stride + row;
            for (int64_t t = 0; t < n_tokens; ++t) {
                if (product.bias != nullptr) kernels_.add(values + t * tile_rows, product.bias + row, n_rows);
                std::copy_n(values + t * tile_rows, n_rows, out + t * product.stride);
            }
        }
    });
}

void Engine::linear(const float* x, int64_t n, const std::vector<const Matrix*>& weights,
                    const std::vector<const float*>& biases, const std::vector<float*>& outs) {
    const std::lock_guard lock(mutex_);
    linear_unlocked(x, n, weights, biases, outs);
}

void Engine::linear_unlocked(const float* x, int64_t n, const std::vector<const Matrix*>& weights,
                             const std::vector<const float*>& biases, const std::vector<float*>& outs) {
    const bool any_quantized =
        std::any_of(weights.begin(), weights.end(), [](const Matrix* w) { return w->format().quantized; });
    const Inputs inputs = prepare(x, n, weights[0]->columns(), any_quantized);

    std::vector<Product> products;
    for (size_t w = 0; w < weights.size(); ++w)
        products.push_back({weights[w], weights[w]->data(), 0, weights[w]->rows(), inputs.of(*weights[w]), n, biases[w],
                            outs[w], weights[w]->rows()});
    multiply(products);
}

void Engine::route(const float* x, int64_t n, const Matrix& router, const float* bias, const RoutingView& routing,
                   int32_t* ids, float* weights) {
    const std::lock_guard lock(mutex_);
    const int64_t n_experts = router.rows();
    float* scores = partial_.get(n * n_experts);
    linear_unlocked(x, n, {&router}, {nullptr}, {scores});
    pool_.run(n, [&](int64_t t, int) {
        choose(scores + t * n_experts, n_experts, bias, routing, ids + t * routing.top_k, weights + t * routing.top_k);
    });
}

void Engine::choose(float* scores, int64_t n_experts, const float* bias, const RoutingView& routing, int32_t* ids,
                    float* weights) const {
    (routing.softmax ? kernels_.softmax : kernels_.sigmoid)(scores, n_experts, scores);
    const auto value = [&](int64_t e) { return bias == nullptr ? scores[e] : scores[e] + bias[e]; };
    // A NaN loses against anything, but is chosen where nothing else is left.
    const auto beats = [&](int64_t a, int64_t b) {
        return value(a) > value(b) || (std::isnan(value(b)) && !std::isnan(value(a)));
    };
    int64_t n = 0;  // the best so far, in order; of equals the first
    for (int64_t e = 0; e < n_experts; ++e) {
        int64_t at = n;
        while (at > 0 && beats(e, ids[at - 1])) --at;
        if (at == routing.top_k) continue;
        n = std::min(n + 1, routing.top_k);
        std::copy_backward(ids + at, ids + n - 1, ids + n);
        ids[at] = static_cast<int32_t>(e);
    }
    float sum = 0;
    for (int64_t j = 0; j < routing.top_k; ++j) {
        weights[j] = scores[ids[j]];
        sum += weights[j];
    }
    const float divisor = routing.normalize ? std::max(smallest_weight_sum, sum) : 1.0f;
    for (int64_t j = 0; j < routing.top_k; ++j) weights[j] = weights[j] / divisor * routing.scale;
}

}  // namespace stride
