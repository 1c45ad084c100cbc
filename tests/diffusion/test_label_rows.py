"""Labels of new classes in a DiT of others: what they begin with, that training moves them, and what is refused."""

import pytest
import torch
from oracle import draw_weights
from small_stages import fine_tuned, open_pool
from small_world import open_stage, write_digits

from dgs_utils import pool, prepare
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.label_rows import NEW_LABELS, add_label_rows, check_trained
from dgs_utils.diffusion.latents import Latents
from dgs_utils.fine_tune import fine_tune_model

TINY = {"input_size": 4, "in_channels": 1, "patch_size": 2, "hidden_size": 16, "depth": 2, "num_heads": 2}


def tables(model: DiT) -> list[torch.Tensor]:
    return [parameter.detach().clone() for name, parameter in model.named_parameters() if "embedding_table" in name]


@pytest.mark.parametrize("own_embedders", [False, True])
def test_every_label_table_of_a_dit_gets_the_rows(own_embedders, tmp_path):
    model = draw_weights(DiT(**TINY, num_classes=3, own_embedders=own_embedders), seed=1).eval()
    before, x, t = tables(model), torch.randn(2, 1, 4, 4), torch.tensor([3, 700])
    expected = [model(x, t, torch.tensor([label, 3])) for label in (1, 3)]
    add_label_rows(model, {"copy": [1], "none": [3], "new": [], "mean": [0, 2]})
    assert len(before) == len(tables(model)) == 1 + own_embedders
    for old, new in zip(before, tables(model), strict=True):
        assert torch.equal(new[[0, 1, 2, 3, 4, 7]], old[[0, 1, 2, 1, 3, 3]])
        torch.testing.assert_close(new[6], (old[0] + old[2]) / 2)
    for label, output in zip((3, 4), expected, strict=True):
        assert torch.equal(model(x, t, torch.tensor([label, 7])), output)
    guided = model.forward_with_guidance(x, t, torch.tensor([4, 4]), 4.0)  # "no class", guided away from itself
    torch.testing.assert_close(guided, model(x, t, torch.tensor([4, 4])))
    model.save_pretrained(tmp_path)
    for one, other in zip(tables(DiT.from_pretrained(tmp_path)), tables(model), strict=True):
        assert torch.equal(one, other)


def test_random_rows_depend_on_the_seed_and_the_class_alone():
    def row(seed: int, *names: str) -> torch.Tensor:
        return tables(add_label_rows(DiT(**TINY, num_classes=3), dict.fromkeys(names, ()), seed))[0][3 + len(names) - 1]

    assert torch.equal(row(0, "cat"), row(0, "dog", "cat"))
    assert not torch.equal(row(0, "cat"), row(1, "cat"))
    assert not torch.equal(row(0, "cat"), row(0, "dog"))


def test_fine_tuning_trains_new_labels_and_asks_which_they_are():
    model = add_label_rows(draw_weights(DiT(**TINY, num_classes=3), seed=1), {"cat": [], "dog": [0]})
    before, rng = tables(model)[0], torch.Generator().manual_seed(0)
    latents = Latents(torch.randn(8, 1, 1, 4, 4, generator=rng), torch.empty(0), torch.arange(8) % 2)
    with pytest.raises(ValueError, match=r"conditions is None, but the DiT has 5 classes, and the latents have 2"):
        fine_tune_model(model, latents)
    average, _ = fine_tune_model(model, latents, [3, 4], steps=3, batch_size=4, ema_decay=0.0, device="cpu")
    after = average["y_embedder.embedding_table.weight"]
    assert (after[3:5] != before[3:5]).any(1).all()
    assert torch.equal(after[:3], before[:3])  # no originals of theirs


def test_a_random_label_is_not_sampled_without_training(tmp_path):
    check_trained(tmp_path, "dit")
    (tmp_path / NEW_LABELS).write_text("class,start,labels\ncat,beagle,162\n")
    check_trained(tmp_path, "dit")
    (tmp_path / NEW_LABELS).write_text("class,start,labels\ncat,beagle,162\ndog,scratch,\n")
    with pytest.raises(ValueError, match=r"the label of class dog is random \(scratch in prepare.class_index\) until"):
        check_trained(tmp_path, "dit")


def test_own_classes_go_the_whole_road_on_a_checkpoint_of_others(tmp_path, outputs):
    """A checkpoint in the original's format, of ten classes without names: a mean, and a label from nothing."""
    originals = write_digits(tmp_path / "originals", 0, 8, classes=("0", "1"))
    for old, new in (("0", "mops"), ("1", "spitz")):
        (originals / old).rename(originals / new)
    base = DiT(**TINY | {"input_size": 8}, num_classes=10)
    torch.save({"ema": draw_weights(base, seed=1).state_dict()}, tmp_path / "dit.pt")
    (tmp_path / "index.csv").write_text("class,condition\nmops,3 + 7\nspitz,scratch\n")
    run = open_stage("00_prepare", dataset="folder", root=str(originals), val_per_class=2, image_size=8, channels=1,
                     base_model=str(tmp_path / "dit.pt"), patch_size=2, hidden_size=16, depth=2, num_heads=2,
                     class_index=str(tmp_path / "index.csv"), classifier_epochs=1, flip=False)
    prepare.index_originals(run)
    autoencoder = prepare.fetch_autoencoder(run)
    prepare.fetch_base_model(run, autoencoder)
    prepare.difficulty_classifier(run)
    prepare.encode_originals(run, autoencoder)
    run.finish()
    with pytest.raises(ValueError, match="the label of class spitz is random"):
        pool.generate(open_pool(run.folder, "raw"))
    weights, _ = fine_tuned(run.folder, "tuned", criteria="none")
    before = DiT.from_pretrained(run.folder / "dit").y_embedder.embedding_table.weight
    after = weights["y_embedder.embedding_table.weight"]
    assert after.shape == (13, 16)
    assert (after[[10, 11]] != before[[10, 11]]).any(1).all()
    assert torch.equal(after[:10], before[:10])
