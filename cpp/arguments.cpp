#include "arguments.hpp"

#include <algorithm>

namespace stride {

namespace {

// Never freed: arrays may outlive everything else in the process.
ArrayCache& array_cache() {
    static auto* cache = new ArrayCache;
    return *cache;
}

void check_range(const int32_t* values, size_t n, const char* name, int64_t end) {
    for (size_t i = 0; i < n; ++i)
        if (values[i] < 0 || values[i] >= end)
            throw nb::value_error((std::string(name) + " holds " + std::to_string(values[i]) +
                                   ", but must be within 0 .. " + std::to_string(end - 1))
                                      .c_str());
}

std::string text(nb::handle value) { return nb::str(value).c_str(); }

[[noreturn]] void refuse_value(const std::string& message) { throw nb::value_error(message.c_str()); }

}  // namespace

void refuse(const std::string& name, const std::string& wanted, nb::handle got) {
    std::string given = text(nb::object(got.type().attr("__name__")));
    if (nb::hasattr(got, "dtype") && nb::hasattr(got, "shape"))
        given = text(nb::object(got.attr("dtype"))) + " " + text(nb::object(got.attr("shape")));
    refuse_value(name + " must be " + wanted + ", not " + given);
}

void check_range(const IntRows& values, const char* name, int64_t end) {
    check_range(values.data(), values.size(), name, end);
}

void check_range(const IntVector& values, const char* name, int64_t end) {
    check_range(values.data(), values.size(), name, end);
}

void check_gated(const MatrixShape& gate, const MatrixShape& up, const MatrixShape& down, int64_t dim) {
    const auto is = [](const MatrixShape& m, int64_t count, int64_t rows, int64_t columns) {
        return m.count() == count && m.rows() == rows && m.columns() == columns;
    };
    if (!is(gate, gate.count(), gate.rows(), dim) || !is(up, gate.count(), gate.rows(), dim) ||
        !is(down, gate.count(), dim, gate.rows()))
        refuse_value("gate, up and down must be [f, d], [f, d] and [d, f] with d = " + std::to_string(dim));
}

GatedMatrices gated_matrices(const Matrix& gate, const Matrix& up, const Matrix& down, float limit, int64_t dim) {
    check_gated(gate, up, down, dim);
    return {gate.stack(), up.stack(), down.stack(), limit};
}

GatedMatrices shared_expert(const Matrix& gate, const Matrix* up, const Matrix* down, float limit, int64_t dim) {
    if (up == nullptr || down == nullptr || gate.count() != 1)
        refuse_value("the shared expert must be three single matrices");
    return gated_matrices(gate, *up, *down, limit, dim);
}

CheckedBatch::CheckedBatch(nb::handle positions_, nb::handle row_starts_, nb::handle page_table_, int64_t n_tokens,
                           const KVPool& pool, int64_t window)
    : positions(array<const int32_t, 1>(positions_, "positions", {n_tokens})),
      row_starts(array<const int32_t, 1>(row_starts_, "row_starts", {-1})),
      page_table(array<const int32_t, 2>(page_table_, "page_table", {size(row_starts, 0) - 1, -1})),
      view{n_tokens,         size(page_table, 0), size(page_table, 1), positions.data(),
           row_starts.data(), page_table.data()} {
    const int32_t* starts = view.row_starts;
    if (starts[0] != 0 || starts[view.n_rows] != n_tokens || !std::is_sorted(starts, starts + view.n_rows + 1))
        refuse_value("row_starts must ascend from 0 to the number of tokens, " + std::to_string(n_tokens));
    for (int64_t row = 0; row < view.n_rows; ++row) {
        if (starts[row] == starts[row + 1]) continue;
        const int64_t first = view.positions[starts[row]], last = first + starts[row + 1] - starts[row] - 1;
        for (int64_t t = starts[row]; t < starts[row + 1]; ++t)
            if (view.positions[t] != first + t - starts[row] || first < 0)
                refuse_value("positions must be consecutive within a row, and not negative");
        if (last / page_tokens >= view.pages_per_row)
            refuse_value("page_table has " + std::to_string(view.pages_per_row) +
                         " pages a row, too few for position " + std::to_string(last));
        const int64_t first_seen = window == 0 ? 0 : std::max<int64_t>(0, first - window + 1);
        for (int64_t p = first_seen / page_tokens; p <= last / page_tokens; ++p) {
            const int32_t page = view.page_table[row * view.pages_per_row + p];
            if (page < 0 || page >= pool.n_pages)
                refuse_value("page_table holds page " + std::to_string(page) + " where row " + std::to_string(row) +
                             " looks, but the pool's pages are 0 .. " + std::to_string(pool.n_pages - 1));
        }
    }
}

template <class T>
NewArray<T>::NewArray(std::initializer_list<int64_t> shape) {
    size_t sizes[3], n = sizeof(T), dimensions = 0;
    for (const int64_t s : shape) {
        sizes[dimensions++] = static_cast<size_t>(s);
        n *= static_cast<size_t>(s);
    }
    data = static_cast<T*>(array_cache().allocate(n));
    const nb::capsule owner(data, [](void* p) noexcept { array_cache().release(p); });
    object = nb::cast(nb::ndarray<nb::numpy, T>(data, dimensions, sizes, owner));
}

template struct NewArray<float>;
template struct NewArray<int32_t>;

}  // namespace stride
