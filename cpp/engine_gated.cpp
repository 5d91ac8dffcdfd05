// SwiGLU of all kinds: a dense one, and routed experts with or without a shared one, are groups of tokens.
//
// Two passes over the weights. The first computes 32 hidden columns of one group at a time: gate, up, SwiGLU, and the
// result quantised, all by one thread. The second computes a strip of output rows for all groups and adds up each
// token's choices in their order, so that no token's result depends on the other tokens.
#include <algorithm>
#include <numeric>

#include "engine.hpp"

namespace stride {

namespace {

constexpr int64_t strip_rows = block_columns;  // hidden rows per item: one block of the down projection's input
constexpr int64_t strip_tiles = strip_rows / tile_rows;
constexpr int64_t token_block = 64;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

struct Engine::Group {
    const GatedMatrices* matrices;
    int64_t index;           // which matrix of the stacks
    int64_t n_tokens;
    int64_t first;           // of its tokens in the sorted order
    const void* const* plain;
    const void* const* quantized;
    float* hidden;           // [n_tokens][hidden_stride], or
    Activation* hidden_codes;  // [n_tokens][blocks]
    std::vector<const void*> hidden_inputs;

    int64_t width() const { return matrices->gate->rows(); }
    int64_t blocks() const { return divide_up(width(), block_columns); }
    bool quantizes() const { return matrices->down->format().quantized; }
    const void* const* inputs_of(const Matrix& matrix) const {
        return matrix.format().quantized ? quantized : plain;
    }
};

void Engine::gated(const float* x, int64_t n, const int32_t* ids, const float* weights, int64_t top_k,
                   const GatedMatrices* routed, const GatedMatrices* shared, float* out) {
    const std::lock_guard lock(mutex_);
    if (n == 0) return;
    const int64_t dim = (routed != nullptr ? routed : shared)->gate->columns();
    const auto quantized = [](const GatedMatrices* m) {
        return m != nullptr && (m->gate->format().quantized || m->up->format().quantized);
    };
    const Inputs inputs = prepare(x, n, dim, quantized(routed) || quantized(shared));

    // Sort the (token, choice) pairs by expert: place[token * top_k + choice] is the pair's place in that order.
    const int64_t n_pairs = routed != nullptr ? n * top_k : 0;
    const int64_t n_experts = routed != nullptr ? routed->gate->count() : 0;
    std::vector<int64_t> starts(static_cast<size_t>(n_experts + 1));
    for (int64_t p = 0; p < n_pairs; ++p) ++starts[static_cast<size_t>(ids[p] + 1)];
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    std::vector<int64_t> place(static_cast<size_t>(n_pairs)), next(starts);
    std::vector<const void*> sorted_plain(static_cast<size_t>(n_pairs)), sorted_quantized(static_cast<size_t>(n_pairs));
    for (int64_t p = 0; p < n_pairs; ++p) {
        const auto at = static_cast<size_t>(next[static_cast<size_t>(ids[p])]++);
        place[static_cast<size_t>(p)] = static_cast<int64_t>(at);
        sorted_plain[at] = inputs.plain[static_cast<size_t>(p / top_k)];
        if (!inputs.quantized.empty()) sorted_quantized[at] = inputs.quantized[static_cast<size_t>(p / top_k)];
    }

    // The largest groups first; the shared expert is one of them, and the last in the sorted order.
    std::vector<Group> groups;
    if (shared != nullptr)
        groups.push_back({shared, 0, n, n_pairs, inputs.plain.data(), inputs.quantized.data(), nullptr, nullptr, {}});
    for (int64_t e = 0; e < n_experts; ++e) {
        const int64_t first = starts[static_cast<size_t>(e)], count = starts[static_cast<size_t>(e + 1)] - first;
        if (count > 0)
            groups.push_back({routed, e, count, first, sorted_plain.data() + first, sorted_quantized.data() + first,
                              nullptr, nullptr, {}});
    }
    std::stable_sort(groups.begin(), groups.end(),
                     [](const Group& a, const Group& b) { return a.n_tokens > b.n_tokens; });
    int64_t n_blocks = 0;
    for (const Group& group : groups) n_blocks += group.n_tokens * group.blocks();
    Activation* codes = hidden_codes_.get(n_blocks);
    float* hidden = hidden_.get(n_blocks * block_columns);
    for (Group& group : groups) {
        group.hidden = hidden;
        group.hidden_codes = codes;
        for (int64_t t = 0; t < group.n_tokens; ++t) {
            const int64_t at = t * group.blocks();
            if (group.quantizes()) group.hidden_inputs.push_back(codes + at);
            else group.hidden_inputs.push_back(hidden + at * block_columns);
        }
        codes += group.n_tokens * group.blocks();
        hidden += group.n_tokens * group.blocks() * block_columns;
    }

    struct Strip {
        const Group* group;
        int64_t block, first_token;
    };
    std::vector<Strip> strips;
    for (const Group& group : groups)
        for (int64_t token = 0; token < group.n_tokens; token += token_block)
            for (int64_t block = 0; block < group.blocks(); ++block) strips.push_back({&group, block, token});
    for (Scratch& own : scratch_) own.floats.get(2 * token_block * strip_rows);
    pool_.run(static_cast<int64_t>(strips.size()), [&](int64_t i, int thread) {
        const Strip& strip = strips[static_cast<size_t>(i)];
        const Group& group = *strip.group;
        const GatedMatrices& m = *group.matrices;
        const int64_t n_tokens = std::min(token_block, group.n_tokens - strip.first_token);
        const int64_t tile = strip.block * strip_tiles, n_tiles = std::min(strip_tiles, m.gate->tiles() - tile);
        float* gate = scratch(thread).floats.get(2 * token_block * strip_rows);
        float* up = gate + token_block * strip_rows;
        if (n_tiles < strip_tiles) std::fill_n(gate, 2 * token_block * strip_rows, 0.0f);
        multiply(*m.gate, group.index, tile, n_tiles, group.inputs_of(*m.gate) + strip.first_token, n_tokens, gate,
                 strip_rows);
        multiply(*m.up, group.index, tile, n_tiles, group.inputs_of(*m.up) + strip.first_token, n_tokens, up,
                 strip_rows);
        kernels_.swiglu(gate, up, n_tokens * strip_rows, m.limit, gate);
        for (int64_t t = 0; t < n_tokens; ++t) {
            const int64_t at = (strip.first_token + t) * group.blocks() + strip.block;
            const float* row = gate + t * strip_rows;
            if (group.quantizes()) kernels_.quantize(row, strip_rows, group.hidden_codes + at);
            else std::copy_n(row, strip_rows, group.hidden + at * block_columns);
        }
    });

    // Only a dense FFN is cut into blocks of tokens here: routed groups would fall into too small pieces.
    const int64_t block = routed == nullptr ? std::min(n, token_block) : n;
    const int64_t tiles = divide_up(dim, tile_rows);
    const int64_t step = std::clamp<int64_t>(tiles / (4 * pool_.n_threads()), 1, n_pairs + n <= 64 ? 4 : 2);
    const int64_t steps = divide_up(tiles, step), width = step * tile_rows;
    const int64_t n_sums = (n_pairs + n) / n * block;
    for (Scratch& own : scratch_) own.floats.get(n_sums * width), own.more_floats.get(width);
    pool_.run(steps * divide_up(n, block), [&](int64_t item, int thread) {
        const int64_t first_token = item / steps * block, n_tokens = std::min(block, n - first_token);
        const int64_t tile = item % steps * step, n_tiles = std::min(step, tiles - tile);
        const int64_t first_row = tile * tile_rows, n_rows = std::min(n_tiles * tile_rows, dim - first_row);
        float* sums = scratch(thread).floats.get(n_sums * width);  // of each pair, in the sorted order
        float* total = scratch(thread).more_floats.get(width);
        for (const Group& group : groups) {
            const int64_t skipped = routed == nullptr ? first_token : 0;
            const int64_t count = routed == nullptr ? n_tokens : group.n_tokens;
            multiply(*group.matrices->down, group.index, tile, n_tiles, group.hidden_inputs.data() + skipped, count,
                     sums + group.first * width, width);
        }
        for (int64_t t = 0; t < n_tokens; ++t) {
            std::fill_n(total, n_rows, 0.0f);
            for (int64_t j = 0; j < (routed != nullptr ? top_k : 0); ++j) {
                const int64_t pair = (first_token + t) * top_k + j;
                kernels_.add_scaled(total, sums + place[static_cast<size_t>(pair)] * width, weights[pair], n_rows);
            }
            if (shared != nullptr) kernels_.add(total, sums + (n_pairs + t) * width, n_rows);
            std::copy_n(total, n_rows, out + (first_token + t) * dim + first_row);
        }
    });
}

}  // namespace stride
