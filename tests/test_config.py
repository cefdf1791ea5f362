"""Configuration: layers, exact fault messages, round trip."""

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from infprune.cli.app import app
from infprune.config import (
    CRITERIA,
    Config,
    DataConfig,
    FinetuneConfig,
    InputConfig,
    ModelConfig,
    PruneConfig,
    RunConfig,
    ScoreConfig,
    TrainConfig,
    dump,
    load,
    shipped,
)
from infprune.config.schema import InfluenceConfig, LayersConfig, RetrainConfig
from infprune.errors import ConfigError

SECTIONS = ", ".join(Config.model_fields)
CURVATURES = "ggn, hessian, fisher, empirical-fisher, kfac, ekfac"
GROUPS = "a mapping {name: {parameter: null or {dimension: [indices]}}}"
COMMANDS = [command.name for command in app.registered_commands]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text, *overrides):
    data = text if isinstance(text, bytes) else text.encode()
    Path("x.yaml").write_bytes(data)
    return load("x.yaml", overrides)


def faults(text, *overrides):
    with pytest.raises(ConfigError) as caught:
        read(text, *overrides)
    return str(caught.value)


# --- values ---


def test_nothing_given_is_the_shipped_digits_and_the_defaults():
    assert load(None, []) == load("digits") == Config(data=DataConfig(calibration=1024))
    assert Config().train.lr == 0.1
    assert Config().finetune == FinetuneConfig(epochs=2, lr=0.01)


def test_a_local_infprune_yaml_goes_before_digits(here):
    (here / "infprune.yaml").write_text("run: {seed: 7}")
    assert load().run.seed == 7
    assert load("digits").run.seed == 0


@pytest.mark.parametrize("text", ["", "# only a comment\n", "prune:\n", "{}", "prune: {}", "\ufeffrun:\n"])
def test_empty_files_and_sections_are_the_defaults(text):
    assert read(text) == Config()


@pytest.mark.parametrize(
    ("text", "overrides", "values"),
    [
        ("prune: {rate: 0.3}", [], (0.3, None, None)),
        ("prune: {macs: 0.4}", [], (None, 0.4, None)),
        ("prune: {rate: 0.3}", ["prune.macs=0.5"], (None, 0.5, None)),
        ("prune: {macs: 0.3}", ["prune.rate=0.5"], (0.5, None, None)),
        ("prune: {macs: 0.3}", ["prune={params: 1000}"], (None, None, 1000.0)),
        ("prune: {macs: 0.3}", ["prune.macs=null"], (0.5, None, None)),
        ("prune: {rate: null}", ["prune.params=0.5"], (None, None, 0.5)),
        ("prune: {rate: null, macs: 0.3, params: null}", [], (None, 0.3, None)),
        ("", ["prune.rate=0.1", "prune.rate=0.2"], (0.2, None, None)),
    ],
)
def test_the_last_layer_s_budget_wins(text, overrides, values):
    prune = read(text, *overrides).prune
    assert (prune.rate, prune.macs, prune.params) == values


@pytest.mark.parametrize("section", ["model", "data"])
def test_a_factory_replaces_a_name_and_back(section):
    chosen = getattr(read(f"{section}: {{name: a}}", f"{section}.factory=my.pkg:make"), section)
    assert (chosen.name, chosen.factory) == (None, "my.pkg:make")
    chosen = getattr(read(f"{section}: {{factory: 'my.pkg:make'}}", f"{section}.name=a"), section)
    assert (chosen.name, chosen.factory) == ("a", None)
    assert getattr(read(f"{section}: {{factory: 'my.pkg:make'}}"), section).name is None


def test_overrides_are_yaml_and_reach_into_args():
    text = "model: {args: &a {depth: 3}}\ndata: {args: *a}\nrun: {threads: 2}"
    got = read(
        text,
        "model.args.norm.eps=1e-3",
        "train.lr=1E-2",
        "run.threads=null",
        "run.dir=2026-01-31",
        "run.device=cuda:1",
        "prune.protect=[a.*, 'b']",
        "data.root=",
    )
    assert got.model.args == {"depth": 3, "norm": {"eps": 0.001}}
    assert got.data.args == {"depth": 3}
    assert got.train.lr == 0.01
    assert (got.run.threads, got.run.dir, got.run.device) == (None, "2026-01-31", "cuda:1")
    assert got.prune.protect == ["a.*", "b"]
    assert read(text, "model.args={width: 1}").model.args == {"width": 1}


def test_built_in_python_the_choices_hold_too():
    assert PruneConfig(macs=0.5).rate is None
    assert ModelConfig(factory="a:b").name is None
    with pytest.raises(ValidationError, match="expected one of rate, macs, params, bytes, latency, got rate and macs"):
        PruneConfig(rate=0.1, macs=0.5)
    with pytest.raises(ValidationError, match="expected one of name, factory, got none"):
        DataConfig(name=None)
    with pytest.raises(ValidationError, match="frozen"):
        Config().run.seed = 3


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("", ["model.inputs=[{shape: [3, 224, 224]}]"]),
        ("model: {inputs: [{shape: [3, 224, 224]}]}", []),
        ("model: {inputs: [{shape: [7]}, {shape: [5]}]}", ["model.inputs=[{shape: [3, 224, 224], dtype: float32}]"]),
    ],
)
def test_inputs_are_a_list_of_shapes(text, overrides):
    config = read(text, *overrides)
    assert config.model.inputs == [InputConfig(shape=[3, 224, 224])]
    assert load(dump_to_file(config)) == config
    two = read("model:\n  inputs:\n  - {shape: [16], dtype: int64, high: 1000}\n  - shape: []\n").model.inputs
    assert two == [InputConfig(shape=[16], dtype="int64", high=1000), InputConfig(shape=[])]
    assert read("model: {inputs: null}").model.inputs is None


# --- faults ---


INPUTS = "a list of {shape: [integers > 0], dtype: float32 or int64, high: an integer > 0}"


def test_one_fault_is_one_line():
    assert faults("prune: {rte: 0.3}") == "x.yaml: prune.rte: unknown key; did you mean prune.rate?"


def test_all_faults_of_file_and_overrides_come_at_once():
    text = "prune: {rte: 1, rate: 0.4, macs: 0.3}\ndata:\n  batch_size: many\n  batch_size: lots\n"
    assert faults(text, "run.seed=-1", "lr=3", "oops", "train.lr=[").split("\n  ") == (
        [
            "x.yaml: 8 faults",
            "data.batch_size: given twice, on lines 3 and 4",
            "prune: expected one of rate, macs, params, bytes, latency, got rate and macs",
            "oops: expected key=value, for example prune.rate=0.3",
            "train.lr: expected a YAML value, got '['",
            "data.batch_size: expected an integer > 0, got 'lots'",
            "prune.rte: unknown key; did you mean prune.rate?",
            "run.seed: expected an integer in [0, 4294967295], got -1",
            "lr: unknown key; did you mean train.lr or finetune.lr or joint.lr?",
        ]
    )


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("prune.rate=1.5", "prune.rate: expected a number in [0, 1), got 1.5"),
        ("prune.rate=1", "prune.rate: expected a number in [0, 1), got 1"),
        ("prune.rate.x=1", "prune.rate: expected a number in [0, 1), got {'x': 1}"),
        ("prune.macs=0", "prune.macs: expected a share in (0, 1] or a number > 1, got 0"),
        ("prune.floor=2", "prune.floor: expected a number in [0, 1], got 2"),
        ("prune.protect=head", "prune.protect: expected a list of texts, got 'head'"),
        ("prune.protect=[1]", "prune.protect: expected a list of texts, got [1]"),
        ("prune.compensate=bn", "prune.compensate: expected one of none, ls, ls+bn, got 'bn'"),
        ("prune=5", "prune: expected a mapping, got 5"),
        ("prune.rate=null", "prune: expected one of rate, macs, params, bytes, latency, got none"),
        ("model={name: a, factory: 'b:c'}", "model: expected one of name, factory, got name and factory"),
        ("model.factory=b", "model.factory: expected pkg.module:function, got 'b'"),
        ("model.args={1: 2}", "model.args: expected a mapping with text keys, got {1: 2}"),
        ("model.checkpoint=''", "model.checkpoint: expected non-empty text, got ''"),
        ("model.inputs=[]", f"model.inputs: expected {INPUTS}, got []"),
        ("model.inputs={shape: [3]}", f"model.inputs: expected {INPUTS}, got {{'shape': [3]}}"),
        ("model.inputs=[[3, 8, 8]]", f"model.inputs: expected {INPUTS}, got [[3, 8, 8]]"),
        ("model.inputs=[{shape: [0]}]", f"model.inputs: expected {INPUTS}, got [{{'shape': [0]}}]"),
        ("model.inputs=[{shape: 3}]", f"model.inputs: expected {INPUTS}, got [{{'shape': 3}}]"),
        ("model.inputs=[{dtype: int64}]", f"model.inputs: expected {INPUTS}, got [{{'dtype': 'int64'}}]"),
        (
            "model.inputs=[{shape: [3], dtype: half}]",
            f"model.inputs: expected {INPUTS}, got [{{'dtype': 'half', 'shape': [3]}}]",
        ),
        ("model.inputs=[{shape: [3], high: 0}]", f"model.inputs: expected {INPUTS}, got [{{'high': 0, 'shape': [3]}}]"),
        ("model.inputs=[{shpe: [3]}]", f"model.inputs: expected {INPUTS}, got [{{'shpe': [3]}}]"),
        ("model.inputs.shape=[3]", f"model.inputs: expected {INPUTS}, got {{'shape': [3]}}"),
        ("data.root=5", "data.root: expected non-empty text, got 5"),
        ("data.batch_size=true", "data.batch_size: expected an integer > 0, got true"),
        ("data.validation=1", "data.validation: expected a number in (0, 1), got 1"),
        ("data.download=1", "data.download: expected true or false, got 1"),
        ("data.calibration=null", "data.calibration: expected an integer > 0, got null"),
        ("score.damping=-1", "score.damping: expected a number >= 0 or auto, got -1"),
        ("influence.curvature=gnn", f"influence.curvature: expected one of {CURVATURES}, got 'gnn'; did you mean ggn?"),
        ("influence.damping=-1", "influence.damping: expected a number >= 0 or auto, got -1"),
        ("influence.damping=some", "influence.damping: expected a number >= 0 or auto, got 'some'"),
        ("influence.ridge=auto", "influence.ridge: expected a number >= 0, got 'auto'"),
        ("influence.rtol=1", "influence.rtol: expected a number in (0, 1), got 1"),
        ("influence.memory=0", "influence.memory: expected a number > 0, got 0"),
        ("influence.solvr=cg", "influence.solvr: unknown key; did you mean influence.solver?"),
        ("retrain.sizes=[1.5]", "retrain.sizes: expected a list of shares in [0, 1), got [1.5]"),
        ("retrain.sizes=[]", "retrain.sizes: expected a list of shares in [0, 1), got []"),
        ("retrain.sizes=0.5", "retrain.sizes: expected a list of shares in [0, 1), got 0.5"),
        ("retrain.forms=[blok]", "retrain.forms: expected a list of block, paper, bracket, got ['blok']"),
        ("layers.modules=conv1", "layers.modules: expected a list of texts, got 'conv1'"),
        ("layers.groups={a: 5}", f"layers.groups: expected {GROUPS}, got {{'a': 5}}"),
        ("layers.groups={a: {w: {x: [0]}}}", f"layers.groups: expected {GROUPS}, got {{'a': {{'w': {{'x': [0]}}}}}}"),
        ("features.top=0", "features.top: expected an integer > 0, got 0"),
        ("train.epochs=1.5", "train.epochs: expected an integer >= 0, got 1.5"),
        ("finetune.lr=.inf", "finetune.lr: expected a number > 0, got inf"),
        ("train.ema=1", "train.ema: expected a number in (0, 1), got 1"),
        ("run.threads=0", "run.threads: expected an integer > 0, got 0"),
        ("run.device=gpu", "run.device: expected one of auto, cpu, cuda, cuda:N, mps, got 'gpu'"),
        ("score.criterion=x", f"score.criterion: expected one of {', '.join(CRITERIA)}, got 'x'"),
        ("prun.rate=0.1", "prun: unknown key; did you mean prune?"),
        ("score.rate=0.1", "score.rate: unknown key; did you mean prune.rate?"),
        ("bogus={}", f"bogus: unknown key; known: {SECTIONS}"),
        ("prune={macs: 1, macs: 2}", "prune.macs: given twice, on lines 1 and 1"),
        ("=3", "=3: expected key=value, for example prune.rate=0.3"),
        ("a..b=3", "a..b=3: expected key=value, for example prune.rate=0.3"),
    ],
)
def test_each_fault_says_what_was_expected_and_what_came(override, text):
    assert faults("", override) == f"command line: {text}"


def test_faults_are_the_files_unless_all_are_of_words():
    assert faults("prune: {floor: 7}", "prune.rate=0.3").startswith("x.yaml: prune.floor: ")
    assert faults("prune: {floor: 7}", "prune.rate=3").startswith("x.yaml: 2 faults\n")
    assert faults("prune: {floor: 7}", "prune.floor=8").startswith("command line: prune.floor: ")
    assert faults("prune: {floors: 7}", "prune.floor=8").startswith("x.yaml: 2 faults\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [\n b", "line 2, column 3: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'"),
        ("a: 1\n---\nb: 2", "line 2, column 1: expected a single document in the stream, but found another document"),
        ("a: 1\nb: \x00", "line 2, column 4: character U+0000 is not allowed"),
        (b"a: 1\n\xff", "line 2: expected UTF-8 text, got byte 0xff"),
        ("a: !!int x", "a value does not fit its type"),
        ("[" * 600, "nested too deeply"),
        ("[1]", f"expected a mapping of sections ({SECTIONS}), got [1]"),
        ("5: x", f"5: unknown key; known: {SECTIONS}"),
        ("prune: {3: x}", "prune.3: unknown key; known: " + ", ".join(PruneConfig.model_fields)),
    ],
)
def test_what_is_not_a_config_is_told_in_one_line(text, message):
    assert faults(text) == f"x.yaml: {message}"


def test_an_override_does_not_hide_a_section_that_is_no_mapping():
    assert faults("prune: 5", "prune.rate=0.3") == "x.yaml: prune: expected a mapping, got 5"


def test_a_missing_file_names_the_shipped_configs_and_the_closest(here):
    names = f"(shipped: {', '.join(shipped())})"
    assert "breast-cancer, cifar10-resnet20, " in names
    texts = {
        "conf/digit.yaml": f"conf/digit.yaml: no such file or shipped config; did you mean digits? {names}",
        "qqq": f"qqq: no such file or shipped config {names}",
        str(here): f"{here}: cannot read: is a directory; give a readable YAML file",
    }
    for source, text in texts.items():
        with pytest.raises(ConfigError) as caught:
            load(source)
        assert str(caught.value) == text


# --- contracts ---


@pytest.mark.parametrize("name", shipped())
def test_shipped_configs_load_and_say_how_to_run_them(name):
    text = shipped()[name].read_text()
    header = text[: text.index("\n\n")]
    shown = re.findall(r"infprune (\S+) -c (\S+)(.*)", header)
    assert shown
    for command, config, words in shown:
        assert command in COMMANDS
        assert config == name
        load(config, words.split())  # every word is an override that exists
    assert load(dump_to_file(load(name))) == load(name)


def test_shipped_values():
    mnist = load("mnist-alexnet5")
    assert (mnist.prune.scope, mnist.prune.protect) == ("layer", ["classifier.*"])
    assert mnist.train == TrainConfig(epochs=4, optimizer="adamw", lr=1e-3, weight_decay=1e-4)
    assert mnist.finetune == FinetuneConfig(optimizer="adamw", lr=3e-3, batch_size=32, weight_decay=1e-4)
    cifar = load("cifar10-resnet56")
    assert (cifar.data.args, cifar.data.augment) == ({"size": None}, "crop-flip")
    assert (cifar.finetune.optimizer, cifar.finetune.lr) == ("sgd", 0.01)


def test_every_field_has_a_default_and_a_description():
    for name, section in Config.model_fields.items():
        fields = type(getattr(Config(), name)).model_fields
        assert section.description
        assert all(field.description and not field.is_required() for field in fields.values()), name


def test_criteria_are_the_field_s_choices():
    assert get_args(ScoreConfig.model_fields["criterion"].annotation) == CRITERIA


def test_the_module_does_not_import_torch():
    code = "import sys, infprune.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_dump_keeps_the_order_of_the_fields():
    keys = [line[:-1] for line in dump(Config()).splitlines() if not line.startswith(" ")]
    assert keys == SECTIONS.split(", ")


def dump_to_file(config):
    path = Path("dumped.yaml")
    path.write_bytes(dump(config).encode())
    return str(path)


words = st.one_of(
    st.text(min_size=1, max_size=6),
    st.sampled_from(["1e-3", "null", "yes", "2026-01-31", "~", "1_0", "0x1", "a: b", "\x85", "a\u2028b"]),
)
numbers = st.floats(min_value=1e-12, max_value=0.999)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words
arguments = st.dictionaries(
    words, st.recursive(leaves, lambda inner: st.lists(inner, max_size=2), max_leaves=3), max_size=2
)
models = st.one_of(
    st.builds(ModelConfig, name=words, args=arguments, checkpoint=words), st.just(ModelConfig(factory="a.b:c"))
)
budgets = st.sampled_from(["rate", "macs", "params"])
prunes = st.builds(
    lambda w, x, **rest: PruneConfig(**{w: x}, **rest), budgets, numbers, protect=st.lists(words, max_size=2)
)
slices = st.none() | st.dictionaries(st.integers(0, 3), st.lists(st.integers(0, 9), max_size=2), max_size=2)
trains = {"lr": numbers, "ema": st.none() | numbers, "epochs": st.integers(0, 10**6)}
configs = st.builds(
    Config,
    model=models,
    prune=prunes,
    score=st.builds(ScoreConfig, damping=st.just("auto") | numbers, criterion=st.sampled_from(CRITERIA)),
    train=st.builds(TrainConfig, **trains),
    finetune=st.builds(FinetuneConfig, **trains),
    influence=st.builds(InfluenceConfig, damping=st.just("auto") | numbers, ridge=numbers, rtol=numbers),
    retrain=st.builds(RetrainConfig, sizes=st.lists(st.just(0.0) | numbers, min_size=1, max_size=3)),
    layers=st.builds(
        LayersConfig, groups=st.dictionaries(words, st.dictionaries(words, slices, max_size=2), max_size=2)
    ),
    run=st.builds(RunConfig, dir=st.none() | words, device=st.sampled_from(["auto", "cuda:12", "mps"])),
)


@settings(max_examples=20, deadline=None)
@given(configs)
def test_load_of_dump_is_identity(config):
    assert load(dump_to_file(config)) == config


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "its aliases stand for more than 100,000 values"),
        (
            BOMB.replace("[", "{<<: [").replace("]", "]}").replace("{<<: [1, 1, 1, 1, 1, 1, 1, 1, 1]}", "{k: 1}"),
            "alias",
        ),
        ("model: {args: &a {deeper: *a}}", "its aliases stand for more than 100,000 values"),
        ("run: {seed: 0x" + "f" * 5000 + "}", "got an integer of thousands of digits"),
        ("model: {args: {x: 0x" + "f" * 5000 + "}}", "model.args: expected a mapping"),
        ("#" * 2**20 + "\n", "expected a configuration of at most 1,048,576 bytes, got more"),
    ],
)
def test_traps(tmp_path, text, told):
    (tmp_path / "trap.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path / "trap.yaml"))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_end():
    with pytest.raises(ConfigError, match="at most 1,048,576 bytes, got more"):
        load("/dev/zero")
