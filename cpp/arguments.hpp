// Arguments from Python, checked: every message names the argument.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>
#include <vector>

#include "engine.hpp"

namespace stride {

namespace nb = nanobind;

// Becomes stride.errors.UnsupportedError.
struct Unsupported : std::runtime_error {
    using std::runtime_error::runtime_error;
};

template <class T, size_t Dimensions>
using Array = nb::ndarray<T, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;
using FloatRows = Array<const float, 2>;
using FloatVector = Array<const float, 1>;
using IntRows = Array<const int32_t, 2>;
using IntVector = Array<const int32_t, 1>;

[[noreturn]] void refuse(const std::string& name, const std::string& wanted, nb::handle got);

template <class T>
constexpr const char* type_name() {
    if constexpr (std::is_same_v<std::remove_const_t<T>, float>) return "float32";
    else if constexpr (std::is_same_v<std::remove_const_t<T>, int32_t>) return "int32";
    else return "uint8";
}

// `sizes` of -1 may be anything.
template <class T, size_t Dimensions>
Array<T, Dimensions> array(nb::handle value, const char* name, const int64_t (&sizes)[Dimensions]) {
    Array<T, Dimensions> result;
    bool fits = nb::try_cast(value, result, false);
    for (size_t i = 0; fits && i < Dimensions; ++i)
        fits = sizes[i] < 0 || static_cast<int64_t>(result.shape(i)) == sizes[i];
    if (fits) return result;
    std::string wanted = std::string(std::is_const_v<T> ? "" : "writable ") + "C-contiguous " + type_name<T>() + " [";
    for (size_t i = 0; i < Dimensions; ++i)
        wanted += std::string(i > 0 ? ", " : "") + (sizes[i] < 0 ? "any" : std::to_string(sizes[i]));
    refuse(name, wanted + "]", value);
}

inline FloatRows float_rows(nb::handle value, const char* name, int64_t n, int64_t columns) {
    return array<const float, 2>(value, name, {n, columns});
}

// A vector that may be None: then empty, and data() of it is not called.
struct OptionalVector {
    FloatVector array;
    const float* data = nullptr;
    OptionalVector(nb::handle value, const char* name, int64_t size) {
        if (value.is_none()) return;
        array = stride::array<const float, 1>(value, name, {size});
        data = array.data();
    }
};

template <class AnyArray>
int64_t size(const AnyArray& a, size_t i) {
    return static_cast<int64_t>(a.shape(i));
}

void check_range(const IntRows& values, const char* name, int64_t end);
void check_range(const IntVector& values, const char* name, int64_t end);

// The weights of one FFN or of a stack of experts; holds nothing alive.
GatedMatrices gated_matrices(const Matrix& gate, const Matrix& up, const Matrix& down, float limit, int64_t dim);

// The same of a shared expert: three single matrices.
GatedMatrices shared_expert(const Matrix& gate, const Matrix* up, const Matrix* down, float limit, int64_t dim);

// That the shapes of a SwiGLU's matrices, or of a stack's, fit each other and the inputs.
void check_gated(const MatrixShape& gate, const MatrixShape& up, const MatrixShape& down, int64_t dim);

// positions, row_starts and page_table, checked: every page from the first to the last position that a row's tokens
// see (window 0: all before them; window 1: themselves) is a page of the pool.
struct CheckedBatch {
    IntVector positions, row_starts;
    IntRows page_table;
    BatchView view;
    CheckedBatch(nb::handle positions, nb::handle row_starts, nb::handle page_table, int64_t n_tokens,
                 const KVPool& pool, int64_t window);
};

// A new float32 or int32 numpy array whose memory is used again after it.
template <class T>
struct NewArray {
    T* data;
    nb::object object;
    explicit NewArray(std::initializer_list<int64_t> shape);
};

}  // namespace stride
