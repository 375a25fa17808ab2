"""The precision of an encoder in its id."""

import torch

from skylight.model.sam.precision import SUFFIXES, half_type, weights_of


def test_what_is_computed_otherwise_has_another_id_and_decoders_read_it_all_the_same() -> None:
    """No GPU is needed to ask what one would do."""
    gpu = torch.device("cuda")
    assert half_type(gpu, tiny=False) == torch.float16 and half_type(gpu, False, "float32") is None
    assert half_type(gpu, tiny=True) is None  # the same numbers as on a CPU, so the same id
    ids = ["vit_b-0123456789ab" + suffix for suffix in ("", *SUFFIXES.values())]
    assert len(set(ids)) == 3 and {weights_of(each) for each in ids} == {ids[0]}
    assert weights_of("mobile_sam-0123456789ab") != ids[0]
