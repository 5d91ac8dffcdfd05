"""Metadata to configuration, and what is refused."""

import pytest

from stride.errors import ModelFileError, UnsupportedError
from stride.gguf import open_gguf
from stride.models import read_config
from stride.models.config import DenseConfig, LinearScaling, MoeConfig, YarnScaling


def config_of(path):
    with open_gguf(path) as file:
        return read_config(file)


def test_step35_layers_differ_by_values(step35):
    config = config_of(step35())
    full, window = config.layers[0], config.layers[1]
    assert (config.n_vocab, config.n_embd, config.context_length) == (40, 64, 256)
    assert (full.n_heads, full.window, full.rope.dims, full.rope.theta) == (4, None, 16, 5e6)
    assert (window.n_heads, window.window, window.rope.dims, window.rope.theta) == (6, 8, 32, 1e4)
    assert full.rope.uses_factors
    assert not window.rope.uses_factors
    assert full.ffn == DenseConfig(96)
    assert isinstance(window.ffn, MoeConfig)
    assert (window.ffn.n_experts, window.ffn.top_k, window.ffn.gating, window.ffn.scale) == (5, 2, "sigmoid", 3.0)
    assert (config.layers[3].ffn.limit, config.layers[3].ffn.shared_limit) == (7.0, 16.0)
    assert len(config.layers) == 4
    assert len(config.draft_layers) == 2
    assert config.windows == (None, 8)


def test_older_names_mean_the_same(step35):
    older = {
        "swiglu_clamp_exp": None,
        "swiglu_clamp_shexp": None,
        "rope.freq_base": None,
        "rope.freq_base_swa": None,
        "swiglu_limits": [0.0, 0.0, 0.0, 7.0],
        "swiglu_limits_shared": [0.0, 0.0, 0.0, 16.0],
        "rope.freq_base_per_layer": [5e6, 1e4, 1e4, 1e4, 5e6, 1e4],
        "rope.dimension_count_per_layer": [16, 32, 32, 32, 16, 32],
    }
    assert config_of(step35(metadata=older)) == config_of(step35())


def test_widths_may_differ_from_block_to_block(step35):
    same = config_of(step35(metadata={"feed_forward_length": [96] * 6, "expert_feed_forward_length": [32] * 6}))
    assert same == config_of(step35())


def test_arrays_must_reach_to_the_draft_layers(step35):
    with pytest.raises(ModelFileError, match=r"attention.head_count.* 4 entries, but needs at least 6"):
        config_of(step35(metadata={"attention.head_count": [4, 6, 6, 6]}))


def test_clamps_may_be_left_out(step35):
    config = config_of(step35(metadata={"swiglu_clamp_exp": None, "swiglu_clamp_shexp": None}))
    assert all(layer.ffn.limit == 0 for layer in config.layers)


@pytest.mark.parametrize(("number", "pooling"), [(None, None), (0, None), (1, "mean"), (2, "cls"), (3, "last")])
def test_how_texts_are_pooled(step35, number, pooling):
    assert config_of(step35(metadata={"pooling_type": number})).pooling == pooling


@pytest.mark.parametrize("number", [4, 5, 2**31])
def test_unknown_ways_to_pool_are_refused(step35, number):
    with pytest.raises(UnsupportedError, match=f"step35.pooling_type is {number}, known are "):
        config_of(step35(metadata={"pooling_type": number}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention.head_count": [0] * 6}, "0 heads"),
        ({"attention.head_count": [5] * 6}, "do not divide"),
        ({"block_count": 0, "nextn_predict_layers": 0}, "leave none"),
        ({"block_count": 2}, "leave none"),
        ({"expert_used_count": 9}, "9 of 5 experts"),
        ({"attention.sliding_window": 0}, "window of 0"),
        ({"embedding_length": 0}, "embedding length"),
        ({"context_length": 0}, "context length"),
        ({"feed_forward_length": 0}, "width of 0"),
        ({"rope.dimension_count": 66}, "rotates"),
        ({"rope.freq_base": 0.0}, "layer 0 rotates by the base 0"),
        ({"rope.freq_base_swa": -5.0}, "layer 1 rotates by the base -5"),
        ({"attention.layer_norm_rms_epsilon": -1e-5}, "epsilon is -1e-05"),
        ({"attention.head_count": "many"}, "attention.head_count"),
        ({"attention.layer_norm_rms_epsilon": None}, "attention.layer_norm_rms_epsilon"),
        ({"attention.sliding_window_pattern": [True]}, "sliding_window_pattern"),
    ],
)
def test_numbers_that_no_model_has_are_refused_by_name(step35, change, message):
    with pytest.raises(ModelFileError, match=message):
        config_of(step35(metadata=change))


def test_an_unknown_router_is_refused(step35):
    with pytest.raises(UnsupportedError, match="expert_gating_func is 7"):
        config_of(step35(metadata={"expert_gating_func": 7}))


def test_a_vocabulary_that_does_not_match_the_embedding_is_refused(step35):
    with pytest.raises(ModelFileError, match=r"token_embd.weight.*41 tokens.*40 rows"):
        config_of(step35(n_tokens=41))


def test_a_file_of_draft_layers_only_is_named_as_such(step35):
    trunk = {name: None for name in step35.shapes if name.startswith("blk.") and int(name.split(".")[1]) < 4}
    with pytest.raises(UnsupportedError, match="only draft layers"):
        config_of(step35(shapes=trunk))


def test_an_unknown_architecture_is_refused_by_name(tmp_path, write_model):
    with pytest.raises(UnsupportedError, match=r"'mamba'.*step35, llama, qwen2"):
        config_of(write_model(tmp_path / "m.gguf", "mamba", {}, {"token_embd.weight": (40, 64)}))


UNIFORM = {
    "block_count": 2,
    "context_length": 512,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.layer_norm_rms_epsilon": 1e-5,
}


@pytest.mark.parametrize(("architecture", "pairs"), [("llama", "adjacent"), ("qwen2", "halves")])
def test_llama_and_qwen2_are_uniform(tmp_path, write_model, architecture, pairs):
    config = config_of(write_model(tmp_path / "m.gguf", architecture, UNIFORM, {"token_embd.weight": (40, 64)}))
    layer = config.layers[0]
    assert len(config.layers) == 2
    assert (layer.n_heads, layer.n_kv_heads, layer.key_dim, layer.rope.dims) == (4, 4, 16, 16)
    assert (layer.rope.pairs, layer.rope.theta, layer.rope.scaling) == (pairs, 10000.0, None)


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, None),
        ({"rope.scaling.factor": 4.0}, LinearScaling(4.0)),
        ({"rope.scale_linear": 2.0}, LinearScaling(2.0)),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, YarnScaling(4.0, 512)),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 128},
            YarnScaling(4.0, 128),
        ),
    ],
)
def test_rope_scalings(tmp_path, write_model, scaling, expected):
    path = write_model(tmp_path / "m.gguf", "llama", UNIFORM | scaling, {"token_embd.weight": (40, 64)})
    assert config_of(path).layers[0].rope.scaling == expected


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope.scaling.factor": -4.0}, "scales positions by -4"),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 0},
            "a context of 0",
        ),
    ],
)
def test_an_impossible_rope_scaling_is_refused(tmp_path, write_model, scaling, message):
    path = write_model(tmp_path / "m.gguf", "llama", UNIFORM | scaling, {"token_embd.weight": (40, 64)})
    with pytest.raises(ModelFileError, match=message):
        config_of(path)


def test_a_partial_yarn_is_refused(tmp_path, write_model):
    partial = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.yarn_ext_factor": 0.5}
    path = write_model(tmp_path / "m.gguf", "llama", UNIFORM | partial, {"token_embd.weight": (40, 64)})
    with pytest.raises(UnsupportedError, match="yarn_ext_factor"):
        config_of(path)


@pytest.mark.parametrize("kind", ["longrope", "su"])
def test_an_unknown_rope_scaling_is_refused(tmp_path, write_model, kind):
    path = write_model(
        tmp_path / "m.gguf", "llama", UNIFORM | {"rope.scaling.type": kind}, {"token_embd.weight": (40, 64)}
    )
    with pytest.raises(UnsupportedError, match=kind):
        config_of(path)


def test_llama_with_experts_is_refused(tmp_path, write_model):
    path = write_model(tmp_path / "m.gguf", "llama", UNIFORM | {"expert_count": 8}, {"token_embd.weight": (40, 64)})
    with pytest.raises(UnsupportedError, match="Mixtral"):
        config_of(path)
