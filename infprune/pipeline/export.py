"""`infprune export`: a pruned file, or the configured network, as one checked file that runs without infprune."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from infprune import export, latency
from infprune.artifacts import Manifest, load
from infprune.config import Config
from infprune.errors import ConfigError, QualityError
from infprune.files import atomic_write, same_place
from infprune.forward import tensors
from infprune.models.build import build
from infprune.pipeline.export_results import Checked, ExportResult, LatencyRow
from infprune.pipeline.memory import within_memory
from infprune.pipeline.session import describing, example_inputs, open_model, open_session, prepare, spec_of
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Progress, told

TRACED = 2  # samples
CHECKED = (1, 5)  # sizes that tracing did not see
ROUNDS = 31


@dataclass(frozen=True)
class Request:
    """`format`: pt2 or onnx; None: what the output's name says. `batches`: sizes to time the networks at."""

    format: str | None = None
    batches: tuple[int, ...] = ()


@dataclass(frozen=True)
class Opened:
    """A network on the CPU, its file's default name without suffix, settings that describe its inputs.

    `device`: to time it on. `manifest`: of the file it came from.
    """

    module: nn.Module
    target: Path
    settings: Config
    device: torch.device
    manifest: Manifest | None = None


@within_memory
def run(path: Path | None, settings: Config, request: Request, progress: Progress) -> ExportResult:
    """Export, check on other batch sizes, write, and time the network against the dense one if asked."""
    watch = Stopwatch()
    if path is None and request.batches:
        raise ConfigError("--latency compares a pruned file with its dense network; name the file")
    name = _format(request.format, settings.run.output)
    format_ = export.available(name)
    with watch.stage("load"):
        opened = _open_configured(settings) if path is None else _open_file(path, settings)
    target = Path(settings.run.output or f"{opened.target}.{name}")
    if path is not None and same_place(target, path):
        raise ConfigError(f"{target} is the pruned model itself; name another file with -o")
    with watch.stage("export"):
        data = export.encoded(opened.module, example_inputs(opened.settings, TRACED, "cpu"), format_)
    with watch.stage("check"):
        inputs = [example_inputs(opened.settings, count, "cpu") for count in CHECKED]
        try:
            error = export.checked(data, format_, opened.module, inputs)
        except QualityError as fault:
            raise QualityError(f"{fault}; {target} was not written") from fault
    atomic_write(target, data)
    with watch.stage("latency"):
        rows = _latencies(opened, request.batches, progress)
    return ExportResult(
        model=settings.model.called,
        source=None if path is None else str(path),
        format=name,
        artifact=str(target),
        bytes=len(data),
        inputs=[i.model_dump(include={"shape", "dtype"}) for i in opened.settings.model.inputs or ()],
        verified=Checked(error, format_.tolerance, list(CHECKED)),
        latency=rows,
        seconds=watch.seconds,
    )


def _open_file(path: Path, settings: Config) -> Opened:
    device = prepare(settings)
    loaded = load(path, factory=settings.model.factory)
    folder = path.parent if settings.run.dir is None else Path(settings.run.dir)
    described = describing(settings, loaded.manifest.inputs, path)
    return Opened(loaded.module, folder / path.name.removesuffix(".safetensors"), described, device, loaded.manifest)


def _open_configured(settings: Config) -> Opened:
    session = open_session(settings, "export")
    module = open_model(session).cpu()
    described = describing(settings, [spec_of(t) for t in tensors(session.example(1))], session.data_name)
    return Opened(module, session.folder / "model", described, session.device)


def _format(asked: str | None, output: str | None) -> str:
    """The format that is asked for or that the name of the output tells; they must agree."""
    if output is None:
        return asked or next(iter(export.FORMATS))
    told = Path(output).suffix.removeprefix(".")
    if asked not in (None, told) or told not in export.FORMATS:
        endings = " or ".join(f".{name}" for name in ([asked] if asked in export.FORMATS else export.FORMATS))
        raise ConfigError(f"--output: expected a name that ends in {endings}, got {output}")
    return told


def _latencies(opened: Opened, batches: tuple[int, ...], progress: Progress) -> list[LatencyRow]:
    if opened.manifest is None or not batches:
        return []
    device, manifest = opened.device, opened.manifest
    dense = build(manifest.name, manifest.factory, manifest.args).to(device)  # its weights do not matter for the time
    pruned = opened.module.to(device)
    rows = []
    with progress.bar("latency", ROUNDS * len(batches)) as bar:
        for count in batches:
            x = example_inputs(opened.settings, count, device)
            found = latency.compare(dense, pruned, x, told(range(ROUNDS), bar))
            rows.append(
                LatencyRow(
                    batch=count,
                    device=str(device),
                    threads=torch.get_num_threads(),
                    verdict=found.verdict,
                    **vars(found),
                )
            )
    return rows
