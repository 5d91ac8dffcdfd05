// SwiGLU of all kinds: a dense one, and routed experts with or without a shared one, are groups of tokens.
//
// Two passes over the weights. The first computes a few tiles of hidden columns of one group at a time: gate, up,
// SwiGLU, and the result quantised, all by one thread. The second computes each group's products with the down
// projection, some rows of the output at a time, and adds up each token's: experts by ascending number, then the shared
// one. So no token's result depends on the others, nor on the order in which experts come.
#include <algorithm>
#include <numeric>

#include "engine.hpp"

namespace stride {

namespace {

static_assert(tile_rows == block_columns);  // a tile's hidden rows are one block of the down projection's input
constexpr int64_t products_bytes = 16 << 20;  // that stay in the last cache until they are added up
// Of gate, and as much of up, in one item: more than of one matrix alone, as each change of streams costs a third of a
// microsecond; less where threads would be left without work.
constexpr int64_t hidden_item_bytes = 768 << 10;
constexpr int64_t items_per_thread = 8;
constexpr int64_t sum_rows = 512;             // rows of one token that are added up at once

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

struct Engine::Group {
    const GatedMatrices* matrices;
    int64_t place;           // of its matrices in their stacks
    int64_t n_tokens;
    int64_t first;           // of its tokens in the sorted order
    const void* const* plain;
    const void* const* quantized;
    float* hidden;           // [n_tokens][blocks * block_columns], or
    Activation* hidden_codes;  // [n_tokens][blocks]
    std::vector<const void*> hidden_inputs;

    int64_t width() const { return matrices->gate.shape->rows(); }
    int64_t blocks() const { return divide_up(width(), block_columns); }
    bool quantizes() const { return matrices->down.shape->format().quantized; }
    const void* const* inputs_of(const MatrixShape& matrix) const {
        return matrix.format().quantized ? quantized : plain;
    }
    const uint8_t* tile(const TileStack& stack, int64_t t) const {
        return stack.at(place) + t * stack.shape->tile_bytes();
    }
    bool has_arrived(int part) const {
        return matrices->reader == nullptr || matrices->reader->has_arrived(place, part);
    }
};

void Engine::gated(const float* x, int64_t n, const int32_t* ids, const float* weights, int64_t top_k,
                   const GatedMatrices* routed, const GatedMatrices* shared, float* out, bool is_first_pass) {
    const std::lock_guard lock(mutex_);
    if (n == 0) return;
    const int64_t dim = (routed != nullptr ? routed : shared)->gate.shape->columns();
    const auto quantized = [](const GatedMatrices* m) {
        return m != nullptr && (m->gate.shape->format().quantized || m->up.shape->format().quantized);
    };
    const Inputs inputs = prepare(x, n, dim, quantized(routed) || quantized(shared));

    // Sort the (token, choice) pairs of this pass by expert. A token's places in that order, ascending, are
    // places[first_place[token]] .. places[first_place[token + 1]].
    const int64_t n_experts = routed != nullptr ? routed->gate.shape->count() : 0;
    const auto place_of = [&](int64_t expert) { return routed->slots == nullptr ? expert : routed->slots[expert]; };
    std::vector<int64_t> starts(static_cast<size_t>(n_experts + 1)), first_place(static_cast<size_t>(n + 1));
    for (int64_t p = 0; p < (routed != nullptr ? n * top_k : 0); ++p) {
        if (place_of(ids[p]) < 0) continue;
        ++starts[static_cast<size_t>(ids[p] + 1)];
        ++first_place[static_cast<size_t>(p / top_k + 1)];
    }
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    std::partial_sum(first_place.begin(), first_place.end(), first_place.begin());
    const int64_t n_pairs = starts.back();
    std::vector<int64_t> pairs(static_cast<size_t>(n_pairs)), next(starts);  // pairs: by place
    for (int64_t p = 0; n_pairs > 0 && p < n * top_k; ++p)
        if (place_of(ids[p]) >= 0) pairs[static_cast<size_t>(next[static_cast<size_t>(ids[p])]++)] = p;
    std::vector<int64_t> places(static_cast<size_t>(n_pairs)), next_place(first_place);
    std::vector<const void*> sorted_plain(static_cast<size_t>(n_pairs)), sorted_quantized(static_cast<size_t>(n_pairs));
    for (size_t at = 0; at < pairs.size(); ++at) {
        const auto token = static_cast<size_t>(pairs[at] / top_k);
        places[static_cast<size_t>(next_place[token]++)] = static_cast<int64_t>(at);
        sorted_plain[at] = inputs.plain[token];
        if (!inputs.quantized.empty()) sorted_quantized[at] = inputs.quantized[token];
    }

    // The largest groups first; the shared expert is one of them, and the last in the sorted order.
    std::vector<Group> groups;
    if (shared != nullptr)
        groups.push_back({shared, 0, n, n_pairs, inputs.plain.data(), inputs.quantized.data(), nullptr, nullptr, {}});
    for (int64_t e = 0; e < n_experts; ++e) {
        const int64_t first = starts[static_cast<size_t>(e)], count = starts[static_cast<size_t>(e + 1)] - first;
        if (count > 0)
            groups.push_back({routed, place_of(e), count, first, sorted_plain.data() + first,
                              sorted_quantized.data() + first, nullptr, nullptr, {}});
    }
    std::stable_sort(groups.begin(), groups.end(),
                     [](const Group& a, const Group& b) { return a.n_tokens > b.n_tokens; });
    int64_t n_blocks = 0;
    for (const Group& group : groups) n_blocks += group.n_tokens * group.blocks();
    Activation* codes = hidden_codes_.get(n_blocks);
    float* hidden = hidden_.get(n_blocks * block_columns);
    std::vector<const Group*> all;
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
        all.push_back(&group);
    }

    if (routed == nullptr) {  // one group: its products are the output
        compute_hidden(all);
        multiply_down(all, 0, dim, out, dim);
        return;
    }
    const int64_t n_products = std::max<int64_t>(1, n_pairs + (shared != nullptr ? n : 0));
    const int64_t most_tiles = std::max<int64_t>(1, products_bytes / 4 / n_products / tile_rows);
    const int64_t most_rows = std::min(most_tiles * tile_rows, dim);
    float* products = partial_.get(n_products * most_rows);
    for (int64_t first_row = 0; first_row < dim; first_row += most_rows) {
        const int64_t n_rows = std::min(most_rows, dim - first_row), pieces = divide_up(n_rows, sum_rows);
        if (first_row == 0) compute_arriving(all, n_rows, products);
        else multiply_down(all, first_row, n_rows, products, n_rows);
        pool_.run(n * pieces, [&](int64_t item, int) {
            const int64_t t = item / pieces, begin = item % pieces * sum_rows;
            const int64_t count = std::min(sum_rows, n_rows - begin);
            float* total = out + t * dim + first_row + begin;
            if (is_first_pass) std::fill_n(total, count, 0.0f);
            const int64_t end = first_place[static_cast<size_t>(t + 1)];
            for (int64_t k = first_place[static_cast<size_t>(t)]; k < end; ++k) {
                const int64_t at = places[static_cast<size_t>(k)];
                kernels_.add_scaled(total, products + at * n_rows + begin, weights[pairs[static_cast<size_t>(at)]],
                                    count);
            }
            if (shared != nullptr) kernels_.add(total, products + (n_pairs + t) * n_rows + begin, count);
        });
    }
}

// The hidden columns of all groups, and their products with the first rows of the down projection: of those whose
// weights are there first, of the others as they arrive.
void Engine::compute_arriving(const std::vector<const Group*>& groups, int64_t n_rows, float* products) {
    ExpertReader* reader = nullptr;
    for (const Group* group : groups)
        if (group->matrices->reader != nullptr) reader = group->matrices->reader;
    std::vector<const Group*> without_hidden = groups, without_products, arrived;
    const auto take_arrived = [&](std::vector<const Group*>& waiting, auto has_arrived) {
        const auto rest = std::stable_partition(waiting.begin(), waiting.end(),
                                                [&](const Group* group) { return !has_arrived(*group); });
        arrived.assign(rest, waiting.end());
        waiting.erase(rest, waiting.end());
        return !arrived.empty();
    };
    while (!without_hidden.empty() || !without_products.empty()) {
        const uint64_t seen = reader != nullptr ? reader->n_arrived() : 0;
        bool any = false;
        if (take_arrived(without_hidden, [](const Group& group) {
                return group.has_arrived(ExpertReader::gate) && group.has_arrived(ExpertReader::up);
            })) {
            compute_hidden(arrived);
            without_products.insert(without_products.end(), arrived.begin(), arrived.end());
            any = true;
        }
        if (take_arrived(without_products, [](const Group& group) { return group.has_arrived(ExpertReader::down); })) {
            multiply_down(arrived, 0, n_rows, products, n_rows);
            any = true;
        }
        if (!any) reader->wait_beyond(seen);
    }
}

// Tiles of gate, then of up, that one item reads.
int64_t Engine::tiles_per_item(const Group& group, int64_t n_bytes) {
    const MatrixShape& gate = *group.matrices->gate.shape;
    const int64_t tiles = gate.tiles(), most = n_bytes / gate.tile_bytes();
    return divide_up(tiles, divide_up(tiles, std::max<int64_t>(1, most)));
}

void Engine::compute_hidden(const std::vector<const Group*>& groups) {
    struct Item {
        const Group* group;
        int64_t first_token, first_tile, n_tiles;
    };
    int64_t gate_bytes = 0;
    for (const Group* group : groups) gate_bytes += group->matrices->gate.shape->matrix_bytes();
    const int64_t n_bytes =
        std::clamp(gate_bytes / (items_per_thread * pool_.n_threads()), item_bytes, hidden_item_bytes);

    std::vector<Item> items;
    for (const Group* group : groups) {
        const int64_t tiles = group->matrices->gate.shape->tiles();
        const int64_t step = tiles_per_item(*group, n_bytes);
        for (int64_t token = 0; token < group->n_tokens; token += token_block)
            for (int64_t tile = 0; tile < tiles; tile += step)
                items.push_back({group, token, tile, std::min(step, tiles - tile)});
    }
    int64_t most_values = 0;
    for (const Group* group : groups)
        most_values = std::max(
            most_values, tiles_per_item(*group, n_bytes) * tile_rows * std::min(token_block, group->n_tokens));
    for (Scratch& own : scratch_) own.floats.get(2 * most_values);

    const auto n_items = static_cast<int64_t>(items.size());
    pool_.run(n_items, [&](int64_t i, int thread) {
        const Item& item = items[static_cast<size_t>(i)];
        const Group& group = *item.group;
        const GatedMatrices& m = *group.matrices;
        const int64_t n_tokens = std::min(token_block, group.n_tokens - item.first_token);
        float* gate = scratch(thread).floats.get(2 * most_values);
        float* up = gate + most_values;
        const auto multiply_all = [&](const TileStack& stack, float* out, const uint8_t* next) {
            const int64_t end_tile = item.first_tile + item.n_tiles;
            for (int64_t tile = item.first_tile; tile < end_tile; ++tile, out += n_tokens * tile_rows)
                multiply(*stack.shape, group.tile(stack, tile), group.inputs_of(*stack.shape) + item.first_token,
                         n_tokens, out, tile + 1 < end_tile ? group.tile(stack, tile + 1) : next);
        };
        multiply_all(m.gate, gate, group.tile(m.up, item.first_tile));
        const Item* next = i + 1 < n_items ? &item + 1 : nullptr;  // if this thread goes on with its own stretch
        multiply_all(m.up, up,
                     next == nullptr ? nullptr : next->group->tile(next->group->matrices->gate, next->first_tile));
        kernels_.swiglu(gate, up, item.n_tiles * n_tokens * tile_rows, m.limit, gate);
        for (int64_t k = 0; k < item.n_tiles; ++k)
            for (int64_t t = 0; t < n_tokens; ++t) {
                const int64_t at = (item.first_token + t) * group.blocks() + item.first_tile + k;
                const float* row = gate + (k * n_tokens + t) * tile_rows;
                if (group.quantizes()) kernels_.quantize(row, tile_rows, group.hidden_codes + at);
                else std::copy_n(row, tile_rows, group.hidden + at * tile_rows);
            }
    });
}

void Engine::multiply_down(const std::vector<const Group*>& groups, int64_t first_row, int64_t n_rows, float* out,
                           int64_t stride) {
    std::vector<Product> products;
    for (const Group* group : groups) {
        const TileStack& down = group->matrices->down;
        products.push_back({down.shape, down.at(group->place), first_row, n_rows, group->hidden_inputs.data(),
                            group->n_tokens, nullptr, out + group->first * stride, stride});
    }
    multiply(products);
}

}  // namespace stride
