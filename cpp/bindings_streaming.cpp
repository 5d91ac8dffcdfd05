// The part of stride._cpu that is about experts on disk. stride/_cpu.pyi documents it.
#include "bindings_streaming.hpp"

#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include "arguments.hpp"

namespace stride {

namespace {

PyObject* read_error = nullptr;

void raise_read_error(const std::exception_ptr& pointer, void*) {
    try {
        std::rethrow_exception(pointer);
    } catch (const ReadError& error) {
        const nb::tuple what = nb::make_tuple(error.slot, error.part, error.offset, error.number);
        PyErr_SetObject(read_error, what.ptr());
    }
}

using Sources = std::vector<std::vector<ExpertReader::Source>>;  // by layer: gate, up, down

std::vector<ExpertReader::Layer> checked_layers(const Sources& sources) {
    if (sources.empty()) throw nb::value_error("layers must not be empty");
    std::vector<ExpertReader::Layer> layers;
    for (const std::vector<ExpertReader::Source>& layer : sources) {
        if (layer.size() != ExpertReader::n_parts) throw nb::value_error("a layer has three sources: gate, up, down");
        for (const ExpertReader::Source& source : layer)
            if (source.offset < 0 || source.stride < 0) throw nb::value_error("offset and stride must not be negative");
        check_gated(layer[0].shape, layer[1].shape, layer[2].shape, layer[0].shape.columns());
        layers.push_back({layer[0], layer[1], layer[2]});
    }
    return layers;
}

std::unique_ptr<ExpertReader> make_reader(const Sources& sources, const std::vector<int>& files, int64_t n_slots,
                                          int threads, int64_t block_bytes) {
    const std::vector<ExpertReader::Layer> layers = checked_layers(sources);
    if (threads < 1 || threads > 1024) throw nb::value_error("threads must be within 1 .. 1024");
    if (block_bytes < ExpertReader::alignment || block_bytes > int64_t{1} << 30)
        throw nb::value_error("block_bytes must be within 4096 .. 2^30");
    if (n_slots < 1 || n_slots > (int64_t{1} << 46) / ExpertReader::bytes_per_slot(layers))
        throw nb::value_error("n_slots must be positive, and within reason");
    const nb::gil_scoped_release release;
    return std::make_unique<ExpertReader>(layers, files, n_slots, threads, block_bytes);
}

void check_layer(const ExpertReader& reader, int64_t layer) {
    if (layer < 0 || layer >= static_cast<int64_t>(reader.layers().size())) throw nb::value_error("there is no such layer");
}

void check_slot(const ExpertReader& reader, int64_t slot) {
    if (slot < 0 || slot >= reader.n_slots()) throw nb::value_error("there is no such slot");
}

void request(ExpertReader& reader, int64_t layer, const std::vector<int64_t>& experts,
             const std::vector<int64_t>& slots, bool wanted) {
    check_layer(reader, layer);
    if (experts.size() != slots.size()) throw nb::value_error("experts and slots must be as many");
    for (const int64_t expert : experts)
        if (expert < 0 || expert >= reader.layers()[static_cast<size_t>(layer)][0].shape.count())
            throw nb::value_error("there is no such expert");
    for (const int64_t slot : slots) check_slot(reader, slot);
    const nb::gil_scoped_release release;
    reader.request(layer, experts, slots, wanted);
}

nb::object slots_of(nb::handle self) {
    const auto& reader = nb::cast<const ExpertReader&>(self);
    const auto n_slots = static_cast<size_t>(reader.n_slots()), n_bytes = static_cast<size_t>(reader.slot_bytes());
    return nb::cast(nb::ndarray<nb::numpy, uint8_t, nb::ndim<2>>(reader.arena(), {n_slots, n_bytes}, self));
}

nb::object streamed_experts(Engine& engine, nb::handle x_, nb::handle ids_, nb::handle weights_, ExpertReader& reader,
                            int64_t layer_index, nb::handle slots_, float limit, const Matrix* shared_gate,
                            const Matrix* shared_up, const Matrix* shared_down, float shared_limit, nb::handle into) {
    check_layer(reader, layer_index);
    const ExpertReader::Layer& layer = reader.layers()[static_cast<size_t>(layer_index)];
    const MatrixShape& gate = layer[ExpertReader::gate].shape;
    const auto x = float_rows(x_, "x", -1, gate.columns());
    const int64_t n = size(x, 0), dim = size(x, 1);
    const auto ids = array<const int32_t, 2>(ids_, "ids", {n, -1});
    const auto weights = float_rows(weights_, "weights", n, size(ids, 1));
    if (size(ids, 1) < 1) throw nb::value_error("ids must name at least one expert a token");
    check_range(ids, "ids", gate.count());
    const auto slots = array<const int32_t, 1>(slots_, "slots", {gate.count()});
    for (int64_t e = 0; e < gate.count(); ++e)
        if (slots.data()[e] >= 0) check_slot(reader, slots.data()[e]);
    const auto stack = [&](int part) {
        return TileStack{&layer[static_cast<size_t>(part)].shape, reader.arena() + reader.part_offset(layer_index, part),
                         reader.slot_bytes()};
    };
    const GatedMatrices routed{stack(ExpertReader::gate), stack(ExpertReader::up), stack(ExpertReader::down), limit,
                               slots.data(), &reader};
    GatedMatrices shared{};
    if (shared_gate != nullptr) shared = shared_expert(*shared_gate, shared_up, shared_down, shared_limit, dim);
    const bool is_first = into.is_none();
    nb::object result;
    float* out;
    if (is_first) {
        NewArray<float> made({n, dim});
        out = made.data;
        result = std::move(made.object);
    } else {
        const auto held = array<float, 2>(into, "into", {n, dim});
        out = held.data();
        result = nb::borrow(into);
    }
    {
        const nb::gil_scoped_release release;
        engine.gated(x.data(), n, ids.data(), weights.data(), size(ids, 1), &routed,
                     shared_gate != nullptr ? &shared : nullptr, out, is_first);
    }
    return result;
}

}  // namespace

void bind_streaming(nb::module_& m, nb::class_<Engine>& engine) {
    read_error = PyErr_NewException("stride._cpu.ReadError", PyExc_Exception, nullptr);
    m.attr("ReadError") = nb::borrow(read_error);
    nb::register_exception_translator(raise_read_error, nullptr);

    nb::class_<ExpertReader::Source>(m, "ExpertSource")
        .def(
            "__init__",
            [](ExpertReader::Source* self, const MatrixShape& shape, int file, int64_t offset, int64_t stride,
               bool packed) { new (self) ExpertReader::Source{shape, file, offset, stride, packed}; },
            nb::arg("shape"), nb::arg("file"), nb::arg("offset"), nb::arg("stride"), nb::arg("packed"));
    nb::class_<ExpertReader>(m, "ExpertReader")
        .def_prop_ro("n_slots", [](const ExpertReader& reader) { return reader.n_slots(); })
        .def_prop_ro("slots", slots_of)
        .def_prop_ro("counts",
                     [](ExpertReader& reader) {
                         const ExpertReader::Counts c = reader.counts();
                         return nb::make_tuple(c.read_bytes, c.waited_seconds, c.read_seconds, c.pack_seconds);
                     })
        .def("request", request, nb::arg("layer"), nb::arg("experts"), nb::arg("slots"), nb::arg("wanted"))
        .def(
            "promote",
            [](ExpertReader& reader, int64_t slot) {
                check_slot(reader, slot);
                reader.promote(slot);
            },
            nb::arg("slot"))
        .def(
            "cancel",
            [](ExpertReader& reader, int64_t slot) {
                check_slot(reader, slot);
                reader.cancel(slot);
            },
            nb::arg("slot"))
        .def(
            "release",
            [](ExpertReader& reader, int64_t slot) {
                check_slot(reader, slot);
                const nb::gil_scoped_release release;
                reader.release(slot);
            },
            nb::arg("slot"))
        .def(
            "is_ready",
            [](ExpertReader& reader, int64_t slot) {
                check_slot(reader, slot);
                return reader.is_ready(slot);
            },
            nb::arg("slot"));
    m.def("expert_reader", make_reader, nb::arg("layers"), nb::arg("files"), nb::arg("n_slots"), nb::arg("threads"),
          nb::arg("block_bytes"));
    m.def(
        "slot_bytes", [](const Sources& sources) { return ExpertReader::bytes_per_slot(checked_layers(sources)); },
        nb::arg("layers"));
    engine.def("streamed_experts", streamed_experts, nb::arg("x"), nb::arg("ids"), nb::arg("weights"),
               nb::arg("reader"), nb::arg("layer"), nb::arg("slots"), nb::arg("limit"), nb::arg("shared_gate").none(),
               nb::arg("shared_up").none(), nb::arg("shared_down").none(), nb::arg("shared_limit"),
               nb::arg("into").none());
}

}  // namespace stride
