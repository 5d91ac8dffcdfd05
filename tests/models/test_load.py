"""Loading: everything is checked by name before anything is read, and everything that is read is used."""

import pytest

from stride.errors import ModelFileError
from stride.models import load_model
from stride.ops.numpy import NumpyBackend


class Unreadable(NumpyBackend):
    """Fails the test if a weight is read."""

    def weight(self, tensor):
        raise AssertionError(f"{tensor.name} was read before all tensors were checked")

    vector = weight


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blk.2.attn_k.weight": None}, "blk.2.attn_k.weight: the tensor is missing"),
        ({"token_embd.weight": None}, "token_embd.weight: the tensor is missing"),
        ({"blk.3.ffn_up_exps.weight": (5, 32, 32)}, "blk.3.ffn_up_exps.weight.*at byte.*the shape is"),
        ({"blk.9.attn_q.weight": (4, 4)}, "blk.9.attn_q.weight.*no place"),
        ({"rope_freqs.weight": (3,)}, "rope_freqs.weight.*3 factors, but 8"),
        ({"blk.5.nextn.hnorm.weight": None}, "blk.5.nextn.hnorm.weight: the tensor is missing"),
    ],
)
def test_wrong_tensors_are_refused_by_name_before_reading(step35, change, message):
    path = step35(shapes=change)
    with pytest.raises(ModelFileError, match=message) as caught:
        load_model(path, Unreadable())
    assert str(path) in str(caught.value)


def test_progress_ends_at_the_whole(step35):
    seen = []
    load_model(step35(), NumpyBackend(), lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_file_without_output_head_uses_the_embedding(step35):
    model = load_model(step35(shapes={"output.weight": None}), NumpyBackend())
    assert model.output is model.token_embd


def test_draft_heads_share_the_trunks_embedding_and_head_unless_they_have_their_own(step35):
    path = step35(shapes={"blk.4.nextn.shared_head_head.weight": (40, 64), "blk.5.nextn.embed_tokens.weight": (40, 64)})
    model = load_model(path, NumpyBackend())
    first, second = model.draft_heads
    assert first.embed_tokens is model.token_embd
    assert first.shared_head_head is not model.output
    assert second.embed_tokens is not model.token_embd
    assert second.shared_head_head is model.output


def test_declared_draft_layers_may_sit_in_another_file(step35):
    drafts = {name: None for name in step35.shapes if name.startswith(("blk.4.", "blk.5."))}
    model = load_model(step35(shapes=drafts), NumpyBackend())
    assert len(model.blocks) == 4
    assert model.draft_heads == ()
