// The cache and attention to it.
//
// Positions are cut into stretches of `stretch_pages` pages, at fixed positions. A query's sums over each stretch are
// computed apart and merged in ascending order, whether one thread does all of them or many threads do one each; so
// the result is the same.
#include <algorithm>

#include "engine.hpp"

namespace stride {

namespace {

constexpr int64_t stretch_pages = 16;
constexpr int64_t queries_per_item = 64;  // share the conversion of a page

int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

}  // namespace

KVLayout::KVLayout(KVKind kind, int64_t key_dim, int64_t value_dim)
    : kind(kind), key_dim(key_dim), value_dim(value_dim), padded_value_dim(round_up(value_dim, value_step)) {
    const int64_t size = kind == KVKind::f32 ? 4 : kind == KVKind::f16 ? 2 : 1;
    const auto scales = [kind](int64_t dim) {
        return kind == KVKind::q8_0 ? round_up(dim / block_columns * page_tokens * 2, 64) : 0;
    };
    key_scales = round_up(key_dim * page_tokens * size, 64);
    values = key_scales + scales(key_dim);
    value_scales = values + round_up(padded_value_dim * page_tokens * size, 64);
    head_bytes = value_scales + scales(value_dim);
}

// Queries of one row and one key/value head, and the pages they attend to.
struct Engine::Span {
    int64_t row, kv_head, first_head, n_heads, first_token, n_tokens;
    int64_t first_page, last_page;
    int64_t first_sums;  // where the sums of its stretches begin, counted in stretches of all spans

    int64_t n_queries() const { return n_heads * n_tokens; }
    int64_t first_stretch() const { return first_page / stretch_pages; }
    int64_t n_stretches() const { return last_page / stretch_pages + 1 - first_stretch(); }
};

void Engine::rope_and_store(const float* q, const float* k, const float* v, int64_t q_heads, const float* q_norm,
                            const float* k_norm, float epsilon, const RopeView& rope, KVPool& pool,
                            const BatchView& batch, float* out) {
    const std::lock_guard lock(mutex_);
    const int64_t key_dim = pool.layout.key_dim, value_dim = pool.layout.value_dim, kv_heads = pool.n_heads;
    std::vector<int64_t> pages(static_cast<size_t>(batch.n_tokens));
    for (int64_t row = 0; row < batch.n_rows; ++row)
        for (int64_t t = batch.row_starts[row]; t < batch.row_starts[row + 1]; ++t)
            pages[static_cast<size_t>(t)] =
                batch.page_table[row * batch.pages_per_row + batch.positions[t] / page_tokens];
    for (Scratch& own : scratch_) own.floats.get(key_dim);

    // By heads, as tokens of one page share its lines of keys.
    const int64_t heads = q_heads / kv_heads, n_pieces = (batch.n_tokens + page_tokens - 1) / page_tokens;
    pool_.run(n_pieces * kv_heads, [&](int64_t item, int thread) {
        const int64_t g = item % kv_heads, first = item / kv_heads * page_tokens;
        float* key = scratch(thread).floats.get(key_dim);
        for (int64_t t = first; t < std::min<int64_t>(first + page_tokens, batch.n_tokens); ++t) {
            const float* cos_sin = rope.cos_sin + t * 2 * rope.pairs;
            const auto turn = [&](const float* head, const float* norm, float* turned) {
                if (norm != nullptr) kernels_.rms_norm(head, norm, key_dim, epsilon, turned);
                else std::copy_n(head, key_dim, turned);
                kernels_.rotate(turned, cos_sin, rope.pairs, rope.adjacent);
            };
            for (int64_t h = t * q_heads + g * heads; h < t * q_heads + (g + 1) * heads; ++h)
                turn(q + h * key_dim, q_norm, out + h * key_dim);
            turn(k + (t * kv_heads + g) * key_dim, k_norm, key);
            kernels_.store_token(pool.layout, key, v + (t * kv_heads + g) * value_dim,
                                 batch.positions[t] % page_tokens, pool.head(pages[static_cast<size_t>(t)], g));
        }
    });
}

void Engine::attention(const float* q, int64_t q_heads, const KVPool& pool, const BatchView& batch, int64_t window,
                       float scale, const float* gate, float* out) {
    const std::lock_guard lock(mutex_);
    const KVLayout& layout = pool.layout;
    const int64_t heads = q_heads / pool.n_heads;  // that share a key/value head
    const int64_t span_heads = std::min(heads, queries_per_item), span_tokens = queries_per_item / span_heads;
    const auto first_position = [&](int64_t t) {
        return window == 0 ? int64_t{0} : std::max<int64_t>(0, batch.positions[t] - window + 1);
    };

    // The last tokens of a row first: they see the most.
    std::vector<Span> spans;
    int64_t n_stretches = 0;
    for (int64_t row = 0; row < batch.n_rows; ++row)
        for (int64_t end = batch.row_starts[row + 1]; end > batch.row_starts[row]; end -= span_tokens)
            for (int64_t head = 0; head < q_heads; head += std::min(span_heads, heads - head % heads)) {
                const int64_t begin = std::max<int64_t>(batch.row_starts[row], end - span_tokens);
                spans.push_back({row, head / heads, head, std::min(span_heads, heads - head % heads), begin,
                                 end - begin, first_position(begin) / page_tokens,
                                 batch.positions[end - 1] / page_tokens, n_stretches});
                n_stretches += spans.back().n_stretches();
            }

    const int64_t sums_size = queries_per_item * (layout.padded_value_dim + 2);
    const auto sums_at = [&](float* memory) {
        return AttentionSums{memory + 2 * queries_per_item, memory, memory + queries_per_item};
    };
    const int64_t scratch_size = attention_scratch(layout, queries_per_item);
    for (Scratch& own : scratch_) own.floats.get(scratch_size), own.more_floats.get(2 * sums_size);

    const auto attend = [&](const Span& span, int64_t stretch, int thread, const AttentionSums& sums) {
        const float* queries[queries_per_item];
        int64_t first[queries_per_item], last[queries_per_item];
        const uint8_t* pages[stretch_pages + 1];
        for (int64_t i = 0; i < span.n_queries(); ++i) {
            const int64_t t = span.first_token + i / span.n_heads, head = span.first_head + i % span.n_heads;
            queries[i] = q + (t * q_heads + head) * layout.key_dim;
            first[i] = first_position(t);
            last[i] = batch.positions[t];
        }
        const int64_t first_page = std::max(span.first_page, stretch * stretch_pages);
        const int64_t last_page = std::min(span.last_page, (stretch + 1) * stretch_pages - 1);
        for (int64_t p = first_page; p <= std::min(last_page + 1, span.last_page); ++p)
            pages[p - first_page] = pool.head(batch.page_table[span.row * batch.pages_per_row + p], span.kv_head);
        if (last_page == span.last_page) pages[last_page + 1 - first_page] = nullptr;
        kernels_.attend({&layout, pages, last_page - first_page + 1, first_page * page_tokens, span.n_queries(),
                         queries, first, last, scale, scratch(thread).floats.get(scratch_size)},
                        sums);
    };
    const auto finish = [&](const Span& span, const AttentionSums& sums) {
        for (int64_t i = 0; i < span.n_queries(); ++i) {
            const int64_t at = (span.first_token + i / span.n_heads) * q_heads + span.first_head + i % span.n_heads;
            kernels_.finish(sums.values + i * layout.padded_value_dim, sums.weight[i],
                            gate == nullptr ? nullptr : gate + at, layout.value_dim, out + at * layout.value_dim);
        }
    };

    const auto n_spans = static_cast<int64_t>(spans.size());
    if (n_spans >= 4 * pool_.n_threads()) {
        pool_.run(n_spans, [&](int64_t i, int thread) {
            const Span& span = spans[static_cast<size_t>(i)];
            float* memory = scratch(thread).more_floats.get(2 * sums_size);
            const AttentionSums sums = sums_at(memory), later = sums_at(memory + sums_size);
            attend(span, span.first_stretch(), thread, sums);
            for (int64_t s = 1; s < span.n_stretches(); ++s) {
                attend(span, span.first_stretch() + s, thread, later);
                kernels_.merge(layout, span.n_queries(), later, sums);
            }
            finish(span, sums);
        });
        return;
    }

    float* memory = partial_.get(n_stretches * sums_size);
    std::vector<const Span*> span_of;
    for (const Span& span : spans) span_of.insert(span_of.end(), static_cast<size_t>(span.n_stretches()), &span);
    pool_.run(n_stretches, [&](int64_t i, int thread) {
        const Span& span = *span_of[static_cast<size_t>(i)];
        attend(span, span.first_stretch() + i - span.first_sums, thread, sums_at(memory + i * sums_size));
    });
    for (const Span& span : spans) {
        float* first = memory + span.first_sums * sums_size;
        for (int64_t s = 1; s < span.n_stretches(); ++s)
            kernels_.merge(layout, span.n_queries(), sums_at(first + s * sums_size), sums_at(first));
        finish(span, sums_at(first));
    }
}

}  // namespace stride
