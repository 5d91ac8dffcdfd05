// The Python module stride._cpu. stride/_cpu.pyi documents it.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "arguments.hpp"
#include "bindings_streaming.hpp"
#include "dispatch.hpp"
#include "probe.hpp"

namespace stride {

namespace {

constexpr int64_t map_alignment = 64 << 10;  // the largest page that systems have

[[noreturn]] void raise_errno(int number) {
    errno = number;
    PyErr_SetFromErrno(PyExc_OSError);
    nb::raise_python_error();
}

const Format& checked_format(int type, int64_t count, int64_t rows, int64_t columns) {
    const Format* format = find_format(type);
    if (format == nullptr) throw Unsupported("no native layout for type " + std::to_string(type));
    if (count < 1 || rows < 1 || columns < 1 || columns % format->block != 0)
        throw nb::value_error("a matrix needs rows of whole blocks, and at least one");
    constexpr int64_t most = int64_t{1} << 50;
    if (rows > most / count || columns > most / (count * (rows + tile_rows)))
        throw nb::value_error("the matrix is too large for any machine");
    return *format;
}

int64_t packed_bytes(int type, int64_t count, int64_t rows, int64_t columns) {
    return checked_format(type, count, rows, columns).packed_bytes(count, rows, columns);
}

MatrixShape make_shape(int type, int64_t count, int64_t rows, int64_t columns) {
    return {checked_format(type, count, rows, columns), count, rows, columns};
}

std::unique_ptr<Matrix> make_matrix(int type, int64_t count, int64_t rows, int64_t columns) {
    return std::make_unique<Matrix>(checked_format(type, count, rows, columns), count, rows, columns);
}

std::unique_ptr<Matrix> map_matrix(int type, int64_t count, int64_t rows, int64_t columns, int file, int64_t offset) {
    const Format& format = checked_format(type, count, rows, columns);
    const int64_t n_bytes = format.packed_bytes(count, rows, columns);
    struct stat status;
    if (fstat(file, &status) != 0) raise_errno(errno);
    if (offset < 0 || offset % map_alignment != 0 || offset > status.st_size || n_bytes > status.st_size - offset)
        throw nb::value_error("offset: not a multiple of 64 KiB, or the file ends before the matrix does");
    try {
        return std::make_unique<Matrix>(format, count, rows, columns, file, offset);
    } catch (const std::system_error& error) {
        raise_errno(error.code().value());
    }
}

nb::object data_of(nb::handle self) {
    const auto& matrix = nb::cast<const Matrix&>(self);
    return nb::cast(nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(
        matrix.data(), {static_cast<size_t>(matrix.n_bytes())}, self));
}

nb::object pages_of(nb::handle self) {
    auto& pool = nb::cast<KVPool&>(self);
    const auto n_pages = static_cast<size_t>(pool.n_pages), n_bytes = static_cast<size_t>(pool.n_bytes());
    return nb::cast(nb::ndarray<nb::numpy, uint8_t, nb::ndim<2>>(pool.head(0, 0), {n_pages, n_bytes / n_pages}, self));
}

void pack(Matrix& matrix, int64_t index, int64_t first_row, nb::handle rows) {
    const auto bytes = array<const uint8_t, 2>(rows, "rows", {-1, matrix.format().file_row_bytes(matrix.columns())});
    if (index < 0 || index >= matrix.count() || first_row < 0 || first_row % tile_rows != 0 ||
        size(bytes, 0) > matrix.rows() - first_row)
        throw nb::value_error("index, first_row: no such rows, or first_row is not a multiple of 32");
    if (matrix.is_mapped()) throw nb::value_error("the weight is mapped from a file, and read only");
    const nb::gil_scoped_release release;
    matrix.pack(index, first_row, size(bytes, 0), bytes.data());
}

const Kernels& find_kernels(const std::string& isa) {
    const std::vector<const Kernels*> available = available_kernels();
    for (const Kernels* kernels : available)
        if (isa == kernels->option || isa == kernels->name) return *kernels;
    std::string known;
    for (const Kernels* kernels : available) known += std::string(known.empty() ? "" : ", ") + kernels->option;
    throw Unsupported("this machine or build has no instruction set '" + isa + "'; it has " + known);
}

void check_threads(int n_threads) {
    if (n_threads < 1 || n_threads > 1024) throw nb::value_error("threads must be within 1 .. 1024");
}

std::unique_ptr<Engine> make_engine(const std::string& isa, int n_threads) {
    check_threads(n_threads);
    return std::make_unique<Engine>(find_kernels(isa), n_threads);
}

std::unique_ptr<KVPool> make_pool(int64_t n_pages, int64_t n_heads, int64_t key_dim, int64_t value_dim,
                                  const std::string& kind) {
    if (kind != "f32" && kind != "f16" && kind != "q8_0") throw Unsupported("no cache of kind '" + kind + "'");
    constexpr int64_t most = int64_t{1} << 20;
    if (n_pages < 1 || n_heads < 1 || key_dim < 1 || value_dim < 1 || n_pages > int64_t{1} << 31 || n_heads > most ||
        key_dim > most || value_dim > most)
        throw nb::value_error("n_pages, n_kv_heads, key_dim and value_dim must be positive, and within reason");
    const int64_t step = kind == "q8_0" ? block_columns : 8;
    if (key_dim % step != 0 || value_dim % step != 0)
        throw Unsupported("a " + kind + " cache needs head sizes in multiples of " + std::to_string(step) + ", not " +
                          std::to_string(key_dim) + " and " + std::to_string(value_dim));
    const KVKind kv_kind = kind == "f32" ? KVKind::f32 : kind == "f16" ? KVKind::f16 : KVKind::q8_0;
    const KVLayout layout(kv_kind, key_dim, value_dim);
    if (n_pages * n_heads > (int64_t{1} << 46) / layout.head_bytes) throw std::bad_alloc();
    return std::make_unique<KVPool>(n_pages, n_heads, layout);
}

nb::object embed(Engine& engine, const Matrix& table, nb::handle token_ids) {
    const auto ids = array<const int32_t, 1>(token_ids, "token_ids", {-1});
    if (table.count() != 1) throw nb::value_error("table must be one matrix, not a stack");
    check_range(ids, "token_ids", table.rows());
    NewArray<float> out({size(ids, 0), table.columns()});
    const nb::gil_scoped_release release;
    engine.embed(table, ids.data(), size(ids, 0), out.data);
    return std::move(out.object);
}

nb::object norm(Engine& engine, nb::handle x_, nb::handle weight_, float epsilon, nb::handle delta_) {
    const auto x = float_rows(x_, "x", -1, -1);
    const int64_t n = size(x, 0), dim = size(x, 1);
    const auto weight = array<const float, 1>(weight_, "weight", {dim});
    NewArray<float> out({n, dim});
    if (delta_.is_none()) {
        const nb::gil_scoped_release release;
        engine.norm(x.data(), weight.data(), epsilon, n, dim, out.data, dim);
    } else {
        const auto delta = float_rows(delta_, "delta", n, dim);
        const auto residual = array<float, 2>(x_, "x", {n, dim});
        const nb::gil_scoped_release release;
        engine.add(residual.data(), delta.data(), n, dim);
        engine.norm(x.data(), weight.data(), epsilon, n, dim, out.data, dim);
    }
    return std::move(out.object);
}

nb::object concat_norms(Engine& engine, nb::handle a_, nb::handle a_weight_, nb::handle b_, nb::handle b_weight_,
                        float epsilon) {
    const auto a = float_rows(a_, "a", -1, -1);
    const int64_t n = size(a, 0), dim = size(a, 1);
    const auto b = float_rows(b_, "b", n, -1);
    const int64_t b_dim = size(b, 1);
    const auto a_weight = array<const float, 1>(a_weight_, "a_weight", {dim});
    const auto b_weight = array<const float, 1>(b_weight_, "b_weight", {b_dim});
    NewArray<float> out({n, dim + b_dim});
    const nb::gil_scoped_release release;
    engine.norm(a.data(), a_weight.data(), epsilon, n, dim, out.data, dim + b_dim);
    engine.norm(b.data(), b_weight.data(), epsilon, n, b_dim, out.data + dim, dim + b_dim);
    return std::move(out.object);
}

nb::object linear(Engine& engine, nb::handle x_, const nb::tuple& weights_, nb::handle biases_) {
    std::vector<const Matrix*> weights;
    for (const nb::handle weight : weights_) weights.push_back(&nb::cast<const Matrix&>(weight));
    if (weights.empty()) throw nb::value_error("weights must not be empty");
    const auto x = float_rows(x_, "x", -1, weights[0]->columns());
    const nb::tuple biases = biases_.is_none() ? nb::tuple() : nb::cast<nb::tuple>(biases_);
    if (!biases_.is_none() && biases.size() != weights.size())
        throw nb::value_error("biases must be as many as weights");
    std::vector<OptionalVector> held;
    std::vector<const float*> bias_data;
    std::vector<float*> outs;
    nb::list result;
    for (size_t i = 0; i < weights.size(); ++i) {
        if (weights[i]->count() != 1 || weights[i]->columns() != weights[0]->columns())
            throw nb::value_error("weights must be single matrices, all of the same row length");
        held.emplace_back(biases_.is_none() ? nb::none() : nb::object(biases[i]), "biases", weights[i]->rows());
        bias_data.push_back(held.back().data);
        NewArray<float> out({size(x, 0), weights[i]->rows()});
        outs.push_back(out.data);
        result.append(out.object);
    }
    {
        const nb::gil_scoped_release release;
        engine.linear(x.data(), size(x, 0), weights, bias_data, outs);
    }
    return result;
}

nb::object ffn(Engine& engine, nb::handle x_, const Matrix& gate, const Matrix& up, const Matrix& down, float limit) {
    const auto x = float_rows(x_, "x", -1, -1);
    const GatedMatrices shared = gated_matrices(gate, up, down, limit, size(x, 1));
    if (gate.count() != 1) throw nb::value_error("ffn takes single matrices, not stacks");
    NewArray<float> out({size(x, 0), size(x, 1)});
    const nb::gil_scoped_release release;
    engine.gated(x.data(), size(x, 0), nullptr, nullptr, 0, nullptr, &shared, out.data);
    return std::move(out.object);
}

nb::object experts(Engine& engine, nb::handle x_, nb::handle ids_, nb::handle weights_, const Matrix& gate,
                   const Matrix& up, const Matrix& down, float limit, const Matrix* shared_gate,
                   const Matrix* shared_up, const Matrix* shared_down, float shared_limit) {
    const auto x = float_rows(x_, "x", -1, -1);
    const int64_t n = size(x, 0), dim = size(x, 1);
    const auto ids = array<const int32_t, 2>(ids_, "ids", {n, -1});
    const auto weights = float_rows(weights_, "weights", n, size(ids, 1));
    const GatedMatrices routed = gated_matrices(gate, up, down, limit, dim);
    if (size(ids, 1) < 1) throw nb::value_error("ids must name at least one expert a token");
    check_range(ids, "ids", gate.count());
    GatedMatrices shared{};
    if (shared_gate != nullptr) shared = shared_expert(*shared_gate, shared_up, shared_down, shared_limit, dim);
    NewArray<float> out({n, dim});
    const nb::gil_scoped_release release;
    engine.gated(x.data(), n, ids.data(), weights.data(), size(ids, 1), &routed,
                 shared_gate != nullptr ? &shared : nullptr, out.data);
    return std::move(out.object);
}

nb::object route(Engine& engine, nb::handle x_, const Matrix& router, nb::handle bias_, int64_t top_k,
                 const std::string& gating, bool normalize, float scale) {
    const auto x = float_rows(x_, "x", -1, router.columns());
    const OptionalVector bias(bias_, "bias", router.rows());
    if (router.count() != 1) throw nb::value_error("router must be one matrix, not a stack");
    if (top_k < 1 || top_k > router.rows()) throw nb::value_error("top_k must be within 1 .. the number of experts");
    if (gating != "sigmoid" && gating != "softmax") throw Unsupported("no gating '" + gating + "'");
    NewArray<int32_t> ids({size(x, 0), top_k});
    NewArray<float> weights({size(x, 0), top_k});
    {
        const nb::gil_scoped_release release;
        engine.route(x.data(), size(x, 0), router, bias.data, {top_k, gating == "softmax", normalize, scale}, ids.data,
                     weights.data);
    }
    return nb::make_tuple(ids.object, weights.object);
}

// How many heads a query has: some for each key/value head.
int64_t query_heads(const FloatRows& q, nb::handle q_, const KVPool& pool) {
    const int64_t key_dim = pool.layout.key_dim, width = size(q, 1);
    if (width == 0 || width % (pool.n_heads * key_dim) != 0)
        refuse("q", "[n, heads * " + std::to_string(key_dim) + "], heads a multiple of " + std::to_string(pool.n_heads),
               q_);
    return width / key_dim;
}

nb::object rope_and_store(Engine& engine, nb::handle q_, nb::handle k_, nb::handle v_, nb::handle q_norm_,
                          nb::handle k_norm_, float epsilon, nb::handle cos_sin_, bool adjacent, KVPool& pool,
                          nb::handle page_table, nb::handle positions, nb::handle row_starts) {
    const int64_t key_dim = pool.layout.key_dim;
    const auto q = float_rows(q_, "q", -1, -1);
    const int64_t n = size(q, 0), q_heads = query_heads(q, q_, pool);
    const auto k = float_rows(k_, "k", n, pool.n_heads * key_dim);
    const auto v = float_rows(v_, "v", n, pool.n_heads * pool.layout.value_dim);
    const OptionalVector q_norm(q_norm_, "q_norm", key_dim), k_norm(k_norm_, "k_norm", key_dim);
    const auto cos_sin = array<const float, 3>(cos_sin_, "cos_sin", {n, 2, -1});
    if (2 * size(cos_sin, 2) > key_dim) throw nb::value_error("cos_sin rotates more dimensions than a head has");
    const CheckedBatch batch(positions, row_starts, page_table, n, pool, 1);
    NewArray<float> out({n, size(q, 1)});
    const nb::gil_scoped_release release;
    engine.rope_and_store(q.data(), k.data(), v.data(), q_heads, q_norm.data, k_norm.data, epsilon,
                          {cos_sin.data(), size(cos_sin, 2), adjacent}, pool, batch.view, out.data);
    return std::move(out.object);
}

nb::object attention(Engine& engine, nb::handle q_, const KVPool& pool, nb::handle page_table, nb::handle positions,
                     nb::handle row_starts, std::optional<int64_t> window_, float scale, nb::handle gate_) {
    const auto q = float_rows(q_, "q", -1, -1);
    const int64_t n = size(q, 0), q_heads = query_heads(q, q_, pool);
    if (window_ && *window_ < 1) throw nb::value_error("window must be at least 1, or None");
    const int64_t window = window_.value_or(0);
    const CheckedBatch batch(positions, row_starts, page_table, n, pool, window);
    FloatRows gate;
    if (!gate_.is_none()) gate = float_rows(gate_, "gate", n, q_heads);
    NewArray<float> out({n, q_heads * pool.layout.value_dim});
    const float* gate_data = gate_.is_none() ? nullptr : gate.data();
    const nb::gil_scoped_release release;
    engine.attention(q.data(), q_heads, pool, batch.view, window, scale, gate_data, out.data);
    return std::move(out.object);
}

nb::object rows(nb::handle x_, nb::handle indices_) {
    const auto x = float_rows(x_, "x", -1, -1);
    const auto indices = array<const int32_t, 1>(indices_, "indices", {-1});
    check_range(indices, "indices", size(x, 0));
    NewArray<float> out({size(indices, 0), size(x, 1)});
    for (int64_t i = 0; i < size(indices, 0); ++i)
        std::memcpy(out.data + i * size(x, 1), x.data() + indices.data()[i] * size(x, 1), 4 * x.shape(1));
    return std::move(out.object);
}

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const Kernels* kernels : available_kernels()) names.push_back(kernels->option);
    return names;
}

void raise_unsupported(const std::exception_ptr& pointer, void*) {
    try {
        std::rethrow_exception(pointer);
    } catch (const Unsupported& error) {
        PyErr_SetString(nb::module_::import_("stride.errors").attr("UnsupportedError").ptr(), error.what());
    }
}

}  // namespace

NB_MODULE(_cpu, m) {
    nb::register_exception_translator(raise_unsupported, nullptr);
    m.attr("page_tokens") = page_tokens;
    m.attr("layout_version") = layout_version;
    m.attr("map_alignment") = map_alignment;
    m.attr("compiler") = compiler();
    m.def("isas", isas);
    m.def("is_native", [](int type) { return find_format(type) != nullptr; }, nb::arg("type"));
    m.def("packed_bytes", packed_bytes, nb::arg("type"), nb::arg("count"), nb::arg("rows"), nb::arg("columns"));
    m.def(
        "read_bandwidth",
        [](int64_t n_bytes, int threads) {
            check_threads(threads);
            if (n_bytes < 64) throw nb::value_error("n_bytes must be at least a line of 64 bytes");
            const nb::gil_scoped_release release;
            return read_bandwidth(n_bytes, threads);
        },
        nb::arg("n_bytes"), nb::arg("threads"));
    m.def(
        "integer_peak",
        [](const std::string& isa, int threads) {
            check_threads(threads);
            const Kernels& kernels = find_kernels(isa);
            const nb::gil_scoped_release release;
            return integer_peak(kernels, threads);
        },
        nb::arg("isa"), nb::arg("threads"));
    m.def("rows", rows, nb::arg("x").none(), nb::arg("indices").none());

    nb::class_<MatrixShape>(m, "MatrixShape")
        .def_prop_ro("shape",
                     [](const MatrixShape& w) -> nb::object {
                         if (w.count() == 1) return nb::make_tuple(w.rows(), w.columns());
                         return nb::make_tuple(w.count(), w.rows(), w.columns());
                     })
        .def_prop_ro("n_bytes", &MatrixShape::n_bytes)
        .def_prop_ro("type", [](const MatrixShape& w) { return static_cast<int>(w.format().type); })
        .def_prop_ro("type_name", [](const MatrixShape& w) { return w.format().name; });
    nb::class_<Matrix, MatrixShape>(m, "Weight")
        .def_prop_ro("data", data_of)
        .def("lock", &Matrix::lock, nb::call_guard<nb::gil_scoped_release>())
        .def("pack", pack, nb::arg("index"), nb::arg("first_row"), nb::arg("rows"));
    nb::class_<KVPool>(m, "KVPool")
        .def_prop_ro("n_bytes", &KVPool::n_bytes)
        .def_prop_ro("page_bytes", [](const KVPool& pool) { return pool.n_bytes() / pool.n_pages; })
        .def_prop_ro("pages", pages_of);

    nb::class_<Engine> engine(m, "Engine");
    engine.def_prop_ro("isa", [](const Engine& e) { return e.kernels().name; })
        .def_prop_ro("threads", &Engine::n_threads)
        .def("embed", embed, nb::arg("table"), nb::arg("token_ids"))
        .def("norm", norm, nb::arg("x"), nb::arg("weight"), nb::arg("epsilon"), nb::arg("delta").none())
        .def("concat_norms", concat_norms, nb::arg("a"), nb::arg("a_weight"), nb::arg("b"), nb::arg("b_weight"),
             nb::arg("epsilon"))
        .def("linear", linear, nb::arg("x"), nb::arg("weights"), nb::arg("biases").none())
        .def("ffn", ffn, nb::arg("x"), nb::arg("gate"), nb::arg("up"), nb::arg("down"), nb::arg("limit"))
        .def("experts", experts, nb::arg("x"), nb::arg("ids"), nb::arg("weights"), nb::arg("gate"), nb::arg("up"),
             nb::arg("down"), nb::arg("limit"), nb::arg("shared_gate").none(), nb::arg("shared_up").none(),
             nb::arg("shared_down").none(), nb::arg("shared_limit"))
        .def("route", route, nb::arg("x"), nb::arg("router"), nb::arg("bias").none(), nb::arg("top_k"),
             nb::arg("gating"), nb::arg("normalize"), nb::arg("scale"))
        .def("rope_and_store", rope_and_store, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("q_norm").none(),
             nb::arg("k_norm").none(), nb::arg("epsilon"), nb::arg("cos_sin"), nb::arg("adjacent"), nb::arg("pool"),
             nb::arg("page_table"), nb::arg("positions"), nb::arg("row_starts"))
        .def("attention", attention, nb::arg("q"), nb::arg("pool"), nb::arg("page_table"), nb::arg("positions"),
             nb::arg("row_starts"), nb::arg("window").none(), nb::arg("scale"), nb::arg("gate").none());
    m.def("engine", make_engine, nb::arg("isa"), nb::arg("threads"));
    bind_streaming(m, engine);
    m.def("matrix_shape", make_shape, nb::arg("type"), nb::arg("count"), nb::arg("rows"), nb::arg("columns"));
    m.def("weight", make_matrix, nb::arg("type"), nb::arg("count"), nb::arg("rows"), nb::arg("columns"));
    m.def("map_weight", map_matrix, nb::arg("type"), nb::arg("count"), nb::arg("rows"), nb::arg("columns"),
          nb::arg("file"), nb::arg("offset"));
    m.def("read_through", &Engine::read_through, nb::arg("engine"), nb::arg("weight"),
          nb::call_guard<nb::gil_scoped_release>());
    m.def(
        "populate",
        [](Engine& engine, const Matrix& weight) {
            int error;
            {
                const nb::gil_scoped_release release;
                error = engine.populate(weight);
            }
            if (error != 0) raise_errno(error);
        },
        nb::arg("engine"), nb::arg("weight"));
    m.def("kv_pool", make_pool, nb::arg("n_pages"), nb::arg("n_kv_heads"), nb::arg("key_dim"), nb::arg("value_dim"),
          nb::arg("kind"));
    m.def(
        "read",
        [](Engine& engine, Matrix& weight, int file, int64_t offset, bool keep_cached) {
            if (weight.is_mapped()) throw nb::value_error("the weight is mapped from a file, and read only");
            int64_t result;
            {
                const nb::gil_scoped_release release;
                result = engine.read(weight, file, offset, keep_cached);
            }
            if (result < -1) raise_errno(static_cast<int>(-1 - result));
            return result;
        },
        nb::arg("engine"), nb::arg("weight"), nb::arg("file"), nb::arg("offset"), nb::arg("keep_cached"));
}

}  // namespace stride
