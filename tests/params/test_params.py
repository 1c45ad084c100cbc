"""Parameters: every error names the parameter, defaults survive papermill, identities hold what decides a result."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dgs_utils.methods import METHODS
from dgs_utils.params import STAGES, validate
from dgs_utils.params.base import StageParams, did_you_mean, hash_key

FIELDS = [(stage, name) for stage, model in STAGES.items() for name in model.model_fields]
WRONG: dict[type, list[Any]] = {  # values of a wrong type for a field whose default has the given type
    str: [3, None, ["a"], True], bool: ["yes", 1, None], int: ["3", 2.5, True, None], float: ["0.1", True, None],
    list: ["a", None, {"a": 1}, [object()]],
}


def cache_key(params: StageParams, input_keys: dict, content: dict | None = None) -> str:
    return hash_key(params.stage, params.cache_params() | (content or {}), input_keys)


def section(stage: str) -> str:
    return stage.split("_", 1)[1]


def other_value(model: type[StageParams], name: str, **others: Any) -> Any:
    """Return a valid value of a field that is not its default."""
    default = model.model_fields[name].default
    candidates = {str: ["idc", "dm", "x", "bf16", "originals", "pool", "paper", "320", "given", "taesd", "batch", "dit",
                        "random", "cross_entropy", "ddim", "fashion", "resnet18", "tensorboard", "rded",
                        "DiT-S/2", "1/2", "on", "cpu", "hill", "convnet4", "none", "plain", "taylorseer", True,
                        "diffusers", "task", "fit", "image", "take_all"],
                  bool: [not default], int: [default + 1, 3, 5] if isinstance(default, int) else [],
                  float: [0.25, 0.75], list: [["a"], ["table1"], [0.25, 0.5], [1]]}
    for value in candidates[type(default)]:
        try:
            model(**others, **{name: value})
        except ValidationError:
            continue
        if value != default:
            return value
    raise AssertionError(f"no other value found for {model.stage}.{name}")


# ---- Errors ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("stage", "name"), FIELDS)
def test_a_wrong_type_is_refused_by_name(stage, name):
    default = STAGES[stage].model_fields[name].default
    for value in WRONG[type(default)]:
        if name == "channels" and value is True:
            continue  # Python's True is a 1, and pydantic takes it for one among literals
        if name == "flip" and value is True:
            continue  # "auto" is its default
        if (stage, name) == ("02_pool", "root") and isinstance(value, list) and all(isinstance(v, str) for v in value):
            continue  # several folders or archives
        with pytest.raises(ValueError, match=f"{section(stage)}\\.{name}[. ]") as caught:
            validate(stage, {name: value})
        assert not isinstance(caught.value, ValidationError)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("stage", "name"), FIELDS)
def test_a_misspelt_name_brings_the_right_one(stage, name):
    sentence = rf"{section(stage)}\.{name}z is not a parameter of {stage}; did you mean .*'{name}'"
    with pytest.raises(ValueError, match=sentence):
        validate(stage, {f"{name}z": 1})


def test_a_name_like_no_other_brings_the_whole_list():
    with pytest.raises(ValueError, match="qqq is not a parameter of 04_transform; valid names are ") as caught:
        validate("04_transform", {"qqq": 1})
    assert all(name in str(caught.value) for name in STAGES["04_transform"].model_fields)


@pytest.mark.parametrize(("stage", "name", "value", "sentence"), [
    ("00_prepare", "seed", -1, "prepare.seed is -1, but input should be greater than or equal to 0"),
    ("00_prepare", "seed", 10**30, f"prepare.seed is {10**30}, but input should be less than or equal to 90071992547"),
    ("05_sample", "rule", "drow", "did you mean 'draw'?"),
    ("00_prepare", "channels", 2, "prepare.channels is 2, but input should be 0, 1 or 3"),
    ("04_transform", "weight", 1.5, "transform.weight is 1.5, but input should be less than or equal to 1"),
    ("00_prepare", "image_size", -1, "prepare.image_size is -1, but input should be greater than or equal to 0"),
    ("00_prepare", "image_size", 3, "prepare.image_size is 3, but images of a diffusion model have 4 pixels or more"),
    ("00_prepare", "flip", "yes", "prepare.flip is 'yes', but input should be 'auto', True or False"),
    ("00_prepare", "classes", ["a", 1], "prepare.classes.1 is 1, but input should be a valid string"),
    ("01_fine_tune", "learning_rate", 0.0, "fine_tune.learning_rate is 0.0, but input should be greater than 0"),
    ("01_fine_tune", "learning_rate", float("inf"), "fine_tune.learning_rate is inf, but input should be a finite"),
    ("01_fine_tune", "ema_decay", float("nan"), "fine_tune.ema_decay is nan, but input should be "),
    ("02_pool", "solver", "euler", "pool.solver is 'euler', but input should be 'ancestral', 'ddim', 'dpm++' or"),
    ("01_fine_tune", "ema_decay", 1.5, "fine_tune.ema_decay is 1.5, but input should be less than or equal to 1"),
    ("00_prepare", "ema_decay", -0.5, "prepare.ema_decay is -0.5, but should be 0 or more, or -1 to leave it to the "),
    ("02_pool", "guidance", -2.0, "pool.guidance is -2.0, but should be 0 or more, or -1 to leave it to the data set"),
    ("02_pool", "guidance_interval", [0.0, 2.0], "pool.guidance_interval.1 is 2.0, but input should be less than or"),
    ("02_pool", "guidance_interval", [0.5], "pool.guidance_interval is [0.5], but list should have at least 2 items"),
    ("02_pool", "guidance_interval", [0.0, 1.0, 1.0], "[0.0, 1.0, 1.0], but list should have at most 2 items"),
    ("02_pool", "guidance_interval", [0.8, 0.2], "pool.guidance_interval is [0.8, 0.2], which has no step; give its"),
    ("02_pool", "shard", "3", "pool.shard is '3', but string should match pattern"),
    ("02_pool", "shard", "3/2", "pool.shard is '3/2', but shares are numbered 1/2 to 2/2"),
    ("05_sample", "method", "dgz", "sample.method is 'dgz', which is no method of stage 05; did you mean 'dgs'"),
    ("05_sample", "distribution", "hil", "sample.distribution is 'hil', but input should be 'scale', 'hill'"),
    ("05_sample", "distribution", "hil", "; did you mean 'hill'?"),
    ("05_sample", "method", "herdin", "; did you mean 'herding'"),
    ("00_prepare", "classifier", "convnt3", "another needs prepare.classifier_weights; did you mean 'convnet3'"),
    ("05_sample", "distribution", [1, -2], "sample.distribution.1 is -2, but input should be greater than or equal"),
    ("06_evaluate", "network", "", "evaluate.network is '', but should be a network of this kit, torchvision:NAME"),
    ("06_evaluate", "network", "resnet50", "a network of this kit, torchvision:resnet50 or timm:resnet50; did you"),
    ("06_evaluate", "network", "vgg", "evaluate.network is 'vgg', but should be a network of this kit, torchvision"),
])
def test_a_wrong_value_is_told_in_a_sentence(stage, name, value, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        validate(stage, {name: value})


def test_all_errors_are_told_at_once():
    with pytest.raises(ValueError, match="; ") as caught:
        validate("00_prepare", {"seed": "0", "depth": -1, "sead": 1})
    for name in ("prepare.seed is '0'", "prepare.depth is -1", "prepare.sead is not a parameter"):
        assert str(caught.value).count(name) == 1


def test_whole_numbers_serve_as_real_ones():
    assert validate("02_pool", {"guidance": 4}).guidance == 4.0


def test_parameters_cannot_be_changed():
    params = validate("02_pool", {})
    with pytest.raises(ValidationError):
        params.seed = 1


def test_methods_of_stage_05_are_all_that_select():
    for name, method in METHODS.items():
        if method.source == "condense":
            with pytest.raises(ValueError, match=f"sample.method is '{name}', which is no method of stage 05"):
                validate("05_sample", {"method": name})
        else:
            assert validate("05_sample", {"method": name}).method == name


@settings(max_examples=60)
@given(st.sampled_from(sorted(METHODS)), st.data())
def test_nearest_finds_the_name_behind_a_slip(name, data):
    place = data.draw(st.integers(0, len(name) - 1))
    slip = name[:place] + name[place + 1:]
    if len(name) > 4 and slip not in METHODS:
        assert f"'{name}'" in did_you_mean(slip, METHODS)
    assert did_you_mean("zzzzzz", METHODS) == f"; params/parameters.md lists all {len(METHODS)} names"
    assert did_you_mean("zzzzzz", METHODS, "its folder") == f"; its folder lists all {len(METHODS)} names"
    assert did_you_mean("zzzzzz", ["a", "b"]) == "; valid names are a, b"


# ---- Defaults --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage", STAGES)
def test_defaults_are_plain_json_and_survive_it(stage):
    model = STAGES[stage]
    assert model.stage == stage
    defaults = model().model_dump()
    assert defaults == {name: field.default for name, field in model.model_fields.items()}
    assert model(**json.loads(json.dumps(defaults))) == model()
    assert {type(value) for value in defaults.values()} <= {str, bool, int, float, list}


@pytest.mark.parametrize("stage", STAGES)
def test_inputs_are_folder_parameters_of_existing_stages(stage):
    model = STAGES[stage]
    folders = set(model.fields_tagged("folder"))
    assert "output" in folders
    methods = [name for name, method in METHODS.items() if stage == "05_sample" and method.source != "condense"]
    for params in (model(), *[model(method=name) for name in methods]):
        for name, spec in params.inputs().items():
            assert name in folders
            assert validate(spec.stage, spec.overrides).stage == spec.stage
        labels = {name: "x" for name, spec in params.inputs().items()}
        assert params.label(labels)


# ---- Identity --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("stage", "name"), FIELDS)
def test_a_result_is_identified_by_all_but_folders_and_machine(stage, name):
    model = STAGES[stage]
    methods = {**dict.fromkeys(("features", "features_epochs"), "herding"), "compute": "cad"}
    method = {"method": methods.get(name, "dgs")} if stage == "05_sample" and name != "method" else {}
    if name == "features_epochs":
        method |= {"features": "convnet3"}
    if (stage, name) == ("02_pool", "root"):  # which only pools that exist already have
        method = {"generator": "folder"}
    elif (stage, name) == ("02_pool", "bias"):
        method = {"generator": "originals"}
    elif stage == "02_pool" and name in ("base", "mode_scale"):
        method = {"generator": "strata"}
    elif stage == "02_pool" and name.startswith("cache"):
        method = {"solver": "ddim"}
    if stage == "06_evaluate" and name.startswith(("teacher", "soft")):  # which only soft labels have
        method = {"protocol": "rded"}
    plain, changed = model(**method), model(**method, **{name: other_value(model, name, **method)})
    apart = any(name in model.fields_tagged(tag) for tag in ("folder", "execution_only", "extendable"))
    if (stage, name) == ("05_sample", "rule"):  # another rule makes another method
        assert (plain.cache_params()["method"], changed.cache_params()["method"]) == ("dgs", "pool_random")
    else:
        preset = (stage, name) == ("05_sample", "score")  # whose own is not repeated
        as_before = name in plain.unused()  # a later parameter, whose default leaves earlier keys as they are
        assert (name in plain.cache_params()) == (not apart and not preset and not as_before)
        assert (name in changed.cache_params()) == (not apart)
    assert (cache_key(plain, {}) == cache_key(changed, {})) == apart


def test_settings_of_the_machine():
    machine = {name for model in STAGES.values() for name in model.fields_tagged("execution_only")}
    assert machine == {"gradient_checkpointing", "processes", "shard", "title", "batch_size", "figure_classes",
                       "tracker", "allow_test_images"}
    batches = {stage for stage, model in STAGES.items() if "batch_size" in model.fields_tagged("execution_only")}
    assert batches == {"02_pool"}  # of a training they decide the result


def test_epochs_beside_steps_are_neither_identity_nor_told():
    by_steps = [validate("01_fine_tune", {"steps": 40, "epochs": epochs}) for epochs in (2, 8)]
    assert len({cache_key(params, {}) for params in by_steps}) == 1
    assert all("epochs" not in params.cache_params() for params in by_steps)
    assert all(params.unused() == ("epochs",) for params in by_steps)
    by_epochs = [validate("01_fine_tune", {"epochs": epochs}) for epochs in (2, 8)]
    assert len({cache_key(params, {}) for params in [*by_steps, *by_epochs]}) == 3
    assert by_epochs[0].unused() == ()


def test_inputs_decide_the_key_and_their_order_does_not():
    params = validate("05_sample", {})
    key = cache_key(params, {"pool": "11111111", "transform": "22222222"})
    assert key == cache_key(params, {"transform": "22222222", "pool": "11111111"})
    assert key != cache_key(params, {"pool": "11111111", "transform": "33333333"})
    assert key != cache_key(params, {"pool": "22222222", "transform": "11111111"})
    assert len(key) == 12
    assert int(key, 16) >= 0


def test_stages_with_equal_parameters_have_keys_of_their_own():
    keys = [cache_key(model(), {}) for model in STAGES.values()]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(("method", "ignored", "matters"), [
    ("dgs", {}, {"seed": 3, "pool_factor": 4, "distribution": [1, 2], "ipc": 7}),
    ("match", {"seed": 3}, {"distribution": "hill", "pool_factor": 4}),
    ("random", {"pool_factor": 4, "distribution": [9]}, {"seed": 3, "ipc": 7}),
    ("first", {"seed": 3, "pool_factor": 4, "features": "other"}, {"ipc": 7}),
    ("herding", {"seed": 3}, {"ipc": 7, "features": "other"}),
    ("rded", {"pool_factor": 4, "features": "other"}, {"ipc": 7, "seed": 3}),
    ("full", {"seed": 3, "ipc": 7}, {}),
    ("easiest", {"seed": 3, "distribution": "hill"}, {"pool_factor": 4}),
])
def test_parameters_that_a_method_ignores_do_not_tell_results_apart(method, ignored, matters):
    key = cache_key(validate("05_sample", {"method": method}), {})
    assert cache_key(validate("05_sample", {"method": method, **ignored}), {}) == key
    for name, value in matters.items():
        assert cache_key(validate("05_sample", {"method": method, name: value}), {}) != key, name


@pytest.mark.parametrize(("values", "method"), [
    ({"rule": "easiest"}, "easiest"), ({"rule": "random"}, "pool_random"), ({"rule": "draw"}, "dgs"),
    ({"method": "match", "rule": "k_center"}, "pool_k_center"), ({"method": "random", "rule": "herding"}, "herding"),
    ({"method": "random", "rule": "ccs"}, "real_ccs"), ({"method": "herding", "rule": "all"}, "full"),
    ({"rule": "d2", "score": "margin"}, "d2"),
])
def test_what_a_preset_names_has_its_key_however_it_was_asked_for(values, method):
    asked, preset = validate("05_sample", values), validate("05_sample", {"method": method})
    score = {"score": values["score"]} if "score" in values else {}
    assert asked.cache_params() == preset.cache_params() | score
    assert asked.label({"prepare": "p", "pool": "q"}).startswith(preset.label({"prepare": "p", "pool": "q"})[:4])


def test_presets_are_identified_by_what_they_look_at():
    chooses = {"cut": 0.0, "cut_errors": False}
    of_pool = {"pool_factor": 5, "pool_images": 0} | chooses
    target = {"distribution": "scale"} | of_pool
    expected = {
        "dgs": target | {"seed": 0, "ipc": 10}, "match": target | {"ipc": 10},
        "random": chooses | {"seed": 0, "ipc": 10}, "first": chooses | {"ipc": 10},
        "herding": chooses | {"ipc": 10, "features": ""}, "rded": {"seed": 0, "ipc": 10}, "full": {},
        "minimax": {"ipc": 10}, "pool_random": of_pool | {"seed": 0, "ipc": 10},
        "easiest": of_pool | {"ipc": 10}, "confidence": of_pool | {"ipc": 10},
        "s3": of_pool | {"ipc": 10, "features": ""}, "pool_herding": of_pool | {"ipc": 10, "features": ""},
    }
    for method, identity in expected.items():
        assert validate("05_sample", {"method": method}).cache_params() == {"method": method} | identity


@pytest.mark.parametrize(("method", "ignored", "matters"), [
    ("dgs", {"compute": 0.5}, {"score": "margin", "cut": 0.2, "cut_errors": True}),
    ("pool_random", {"score": "margin"}, {"cut": 0.2, "cut_errors": True}),
    ("pool_herding", {"score": "margin", "compute": 1.0}, {"cut": 0.1}),
    ("cad", {"distribution": "hill", "seed": 2}, {"compute": 0.5, "score": "el2n"}),
    ("reliable_far", {"score": "entropy"}, {"score": "difficulty", "features": "other"}),
])
def test_score_and_cut_tell_results_apart_where_they_are_looked_at(method, ignored, matters):
    test_parameters_that_a_method_ignores_do_not_tell_results_apart(method, ignored, matters)
    cut = {"method": method, "cut": 0.2}
    keys = {cache_key(validate("05_sample", cut | {"score": score}), {}) for score in ("difficulty", "margin")}
    assert len(keys) == 2  # a cut goes by the score, whatever the rule looks at


def test_a_share_of_the_pool_makes_every_rule_one_of_its_seed_and_its_absence_no_key_new():
    def identity(**values):
        return validate("05_sample", {"method": "easiest"} | values).cache_params()

    assert "pool_share" not in identity()
    assert identity(seed=1) == identity()
    assert identity(pool_share=0.8, seed=1) == identity() | {"pool_share": 0.8, "seed": 1}


@pytest.mark.parametrize("generator", ["mgd3", "strata"])
def test_modes_have_a_pool_for_each_ipc(generator):
    for ipc in (10, 20):
        [pool] = [spec for name, spec in validate("05_sample", {"method": generator, "ipc": ipc}).inputs().items()
                  if name == "pool"]
        assert pool.overrides == {"generator": generator, "images_per_class": ipc}


@pytest.mark.parametrize(("values", "criteria"), [
    ({"generator": "dit"}, None), ({"generator": "minimax"}, {}), ({"generator": "plain"}, {"criteria": "none"}),
    ({"generator": "mgd3"}, None), ({"generator": "mgd3", "base": "plain"}, {"criteria": "none"}),
    ({"generator": "strata", "base": "minimax"}, {}), ({"generator": "dit", "base": "plain"}, None)])
def test_a_pool_asks_for_the_fine_tuning_that_its_generator_is_called_after(values, criteria):
    inputs = validate("02_pool", values).inputs()
    assert (inputs["fine_tune"].overrides if criteria is not None else inputs.get("fine_tune")) == criteria
    assert ("originals" in inputs) == (values["generator"] == "strata")


def test_parameters_of_criteria_and_modes_do_not_tell_results_apart_where_there_are_none():
    for stage, values, ignored in (("01_fine_tune", {"criteria": "none"}, {"memory_size": 3, "weight_diverse": 0.1}),
                                   ("02_pool", {"generator": "dit"}, {"base": "plain", "mode_scale": 0.5})):
        assert validate(stage, values).cache_params() == validate(stage, values | ignored).cache_params()


def test_a_rule_asks_for_the_stages_that_it_looks_at():
    def inputs(**values):
        return {name: spec.overrides for name, spec in validate("05_sample", values).inputs().items()}

    scale = {"ipc": 10, "pool_factor": 5}
    assert inputs(score="margin") == {"prepare": {}, "pool": {}, "transform": scale | {"score": "margin"}}
    assert inputs(rule="random") == {"prepare": {}, "pool": {}}
    assert inputs(rule="random", cut=0.1) == {"prepare": {}, "pool": {}, "scores": {"source": "pool"}}
    assert inputs(rule="herding", cut_errors=True) == {"prepare": {}, "pool": {}, "scores": {"source": "pool"}}
    assert inputs(method="real_d2") == {"prepare": {}, "scores": {"source": "originals"}}


@pytest.mark.parametrize(("values", "sentence"), [
    ({"rule": "best"}, "sample.rule is 'best', which is no rule of stage 05"),
    ({"method": "minimax", "rule": "easiest"}, "set pool.generator to minimax and choose another method"),
    ({"method": "rded", "score": "margin"}, "sample.method rded has no score or rule to exchange"),
    ({"method": "random", "rule": "draw"}, "sample.rule draw does not choose among the originals"),
    ({"method": "full", "cut": 0.3}, "drop_duplicates and pool_share need a rule that chooses, and full has none"),
    ({"method": "rded", "pool_share": 0.5}, "pool_share need a rule that chooses, and rded has none; leave them out"),
    ({"score": "beauty"}, "sample.score is 'beauty'"),
])
def test_parts_that_do_not_go_together_are_named(values, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        validate("05_sample", values)


def test_keys_are_the_same_in_every_process():
    code = ("from dgs_utils.params import STAGES; from dgs_utils.params.base import hash_key; "
            "print(*[hash_key(m.stage, m().cache_params(), {'b': 'x', 'a': 'y'}) for m in STAGES.values()])")
    printed = {subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True,
                              text=True, check=True).stdout for seed in ("1", "2")}
    assert printed == {" ".join(cache_key(m(), {"a": "y", "b": "x"}) for m in STAGES.values()) + "\n"}
