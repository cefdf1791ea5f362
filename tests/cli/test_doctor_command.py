"""`infprune doctor`: the tree, JSON, files, and what users get wrong."""

import json

import pytest

WORDS = ["model.inputs=[{shape: [3, 6, 6]}]", "data.name=mnist", "data.root=/nowhere"]
LITERAL = ["model.factory=patients:literal", *WORDS]


def test_the_tree_of_a_network_of_ones_own(infprune, tmp_path):
    outcome = infprune("doctor", *LITERAL)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    reach = "76.1% of the MACs and 57.6% of the parameters in reach"
    assert lines[0] == f"2 of 5 layers prunable, 13 of 39 channels; {reach}"
    assert lines[1] == "patients:literal on float32 (N, 3, 6, 6), random weights: 571 parameters, 14,376 MACs"
    for line in (
        "├── stem            8 channels,  72.1% of MACs,  54.6% of parameters",
        "│   └── stem → norm → right",
        "    ├── frozen: it is an output of the network",
    ):
        assert line in lines, outcome.out
    assert "`extra = x[:, :4].sum((1, 2, 3))`" in outcome.out
    assert (
        "fails: RuntimeError: shape '[-1, 12]' is invalid for input of size 22 at patients.py:22 `return" in outcome.out
    )
    assert lines[-1].startswith("Took ")
    assert list(tmp_path.iterdir()) == []


def test_verbose_lists_every_tensor(infprune):
    shown = infprune("doctor", "--verbose", *LITERAL).out
    assert "│   ├── norm.running_var dimension 0: passes them on" in shown
    assert "│   └── right.weight dimension 1: reads them" in shown


def test_json_is_one_object_and_the_whole_result(infprune):
    outcome = infprune("doctor", "--json", *LITERAL)
    result = outcome.json
    assert (outcome.code, outcome.err) == (0, "")
    assert (result["schema_version"], result["command"]) == (1, "doctor")
    assert result["prunable"] == {"layers": 2, "channels": 13}
    assert result["total"] == {"layers": 5, "channels": 39}
    assert result["macs"] == {"before": 14_376, "after": 3_432}
    assert result["layers"][0]["slices"][0] == {"tensor": "stem.weight", "dim": 0, "role": "producer", "positions": 1}
    assert result["layers"][1]["frozen"].startswith("fixed channel positions in slice.Tensor at patients.py:")
    assert (result["weights"], result["source"]) == ("random", None)
    assert (result["stopped"], result["untried"]) == (None, 0)


def test_torchvision_without_data_or_weights(infprune, tmp_path):
    words = ["model.name=torchvision:resnet18", "model.inputs=[{shape: [3, 32, 32]}]"]
    result = infprune("doctor", "--json", *words).json
    assert [row["name"] for row in result["layers"] if row["frozen"]] == ["fc"]
    assert result["prunable"] == {"layers": 12, "channels": 2880}
    assert result["weights"] == "random"
    assert list(tmp_path.iterdir()) == []


def test_a_pruned_file(infprune, pruned):
    folder, made = pruned
    outcome = infprune("doctor", folder / made["artifact"], "--json")
    assert outcome.code == 0, outcome.err
    result = outcome.json
    assert result["prunable"]["channels"] == made["channels"]["after"]
    assert result["params"]["before"] == made["params"]["after"]
    assert result["inputs"] == [{"shape": [1, 8, 8], "dtype": "float32"}]
    assert result["source"] == result["weights"] == str(folder / made["artifact"])


def test_nothing_prunable_is_no_error(infprune):
    outcome = infprune("doctor", "prune.protect=['*']")
    assert outcome.code == 0
    assert outcome.out.startswith("Nothing is prunable: 7 layers, all frozen\n")
    assert outcome.out.count("frozen: protected") == 6


def test_protected_layers(infprune):
    result = infprune("doctor", "prune.protect=[stages.0.*]", "--json").json
    assert {row["name"] for row in result["layers"] if row["frozen"] == "protected"} == {"conv1", "stages.0.conv1"}


def test_several_inputs_from_their_data(infprune):
    words = ["model.factory=forms:TwoInputs", "data.factory=forms:pairs"]
    result = infprune("doctor", "--json", *words).json
    assert result["inputs"] == [{"shape": [6], "dtype": "int64"}, {"shape": [5], "dtype": "float32"}]
    assert result["prunable"]["layers"] == 4


def test_quiet_says_nothing(infprune):
    outcome = infprune("doctor", "-q", *LITERAL)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


def test_stopping_early_is_told(infprune, monkeypatch):
    monkeypatch.setattr("infprune.pipeline.doctor.SEARCH", 0)
    outcome = infprune("doctor", "--seconds", 200, *LITERAL)
    assert outcome.code == 0
    assert outcome.out.startswith("Nothing is known to be prunable: 3 of 5 layers were not tried\n")
    assert "Stopped early, 0 of 200 s are over: more may be prunable than shown; layers not tried: 3." in outcome.out


FACTORY = "model.factory=patients:"
CASES = {
    "unknown network": (["model.name=torchvision:resnet81", *WORDS], 2, "did you mean torchvision:resnet18"),
    "unknown factory": ([f"{FACTORY}litral", *WORDS], 2, "did you mean patients:literal?"),
    "wrong shape": ([*LITERAL, "model.inputs=[{shape: [1, 6, 6]}]"], 3, "inputs of shape (1, 6, 6) (model.inputs)"),
    "other data": ([f"{FACTORY}literal"], 3, "or describe its inputs: model.inputs='[{shape: [3, 224, 224]}]'"),
    "no data": ([f"{FACTORY}literal", *WORDS[1:]], 6, "/nowhere"),
    "control flow": ([f"{FACTORY}data_dependent", *WORDS], 3, "cannot trace DataDependent"),
    "no end": ([f"{FACTORY}endless", *WORDS, "--seconds", "1"], 3, "1 s are over; allow more with --seconds"),
    "no time": ([*LITERAL, "--seconds", "0"], 3, "0 s are over; allow more with --seconds"),
    "no memory": ([*LITERAL, "--memory", "0.01"], 3, "0.01 are allowed; allow more with --seconds or --memory"),
    "missing weights": ([*LITERAL, "model.checkpoint=nope.safetensors"], 6, "nope.safetensors"),
    "missing file": (["nope.safetensors"], 6, "nope.safetensors: no such file"),
    "no equals sign": ([*LITERAL, "fast"], 2, "expected key=value"),
    "bad device": ([*LITERAL, "--device", "gpu"], 2, "run.device"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_words(infprune, tmp_path, monkeypatch, case):
    monkeypatch.delenv("INFPRUNE_DATA", raising=False)
    words, code, text = CASES[case]
    outcome = infprune("doctor", "-q", *words)
    assert text in outcome.err.splitlines()[-1]
    assert "Traceback" not in outcome.err
    assert (outcome.code, outcome.out) == (code, "")
    again = infprune("doctor", "--json", *words)
    assert again.code == json.loads(again.out)["exit_code"] == code
    assert list(tmp_path.iterdir()) == []


def test_negative_time_is_refused(infprune):
    assert infprune("doctor", "--seconds", "-1").code == 2


def test_help_gives_an_example_of_doctor(infprune):
    outcome = infprune("doctor", "--help")
    example = "infprune doctor model.name=torchvision:resnet50 model.inputs='[{shape: [3, 224, 224]}]'"
    assert outcome.code == 0
    assert f"Example: {example}" in outcome.out
