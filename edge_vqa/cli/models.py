"""`edge-vqa models`: bundles that are there, and how to get others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edge_vqa.cli import terminal
from edge_vqa.cli.options import DebugOption
from edge_vqa.errors import EdgeVqaError

app = typer.Typer(help="List, show, verify, download and upload bundles.", no_args_is_help=True)


@app.command("list", epilog="Example: edge-vqa models list")
def models_list(
    json_: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False, debug: DebugOption = False
) -> None:
    """List the bundles that --model knows by name, and where each comes from."""
    del debug
    from edge_vqa.bundles import packages, store

    rows = []
    for name, folder in store.known().items():
        row: dict[str, Any] = {
            "name": name,
            "megabytes": None,
            "quantisation": None,
            "description": "",
            "from": store.origin(folder),
        }
        try:
            found = store.read(folder)
            quantisation = found.manifest.quantisation
            row["megabytes"] = round(found.bytes / 1e6, 1)
            row["quantisation"] = f"{quantisation.method}:{quantisation.type}"
            row["description"] = found.manifest.description
        except EdgeVqaError as error:
            row["description"] = f"damaged: {error.what}"
        rows.append(row)
    for offer in packages.offers():
        if offer.fault:
            why = f"unusable: {offer.fault}"
            told = {"megabytes": None, "quantisation": None, "description": why, "from": offer.distribution}
            rows.append({"name": offer.name, **told})
    if json_:
        terminal.print_json(rows)
        return
    for row in rows:
        size = "?" if row["megabytes"] is None else f"{row['megabytes']} MB"
        terminal.say(f"{row['name']:<12} {size:>9}  {row['quantisation'] or '?':<12} {row['from']:<20} {row['description']}")


@app.command("show", epilog="Example: edge-vqa models show mini")
def models_show(
    name: Annotated[str | None, typer.Argument(help="Bundle (default: base where it is installed, else mini).")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print bundle.json as it is.")] = False,
    debug: DebugOption = False,
) -> None:
    """Show what is in a bundle: source, quantisation, operating points, measured figures."""
    del debug
    from edge_vqa.bundles import manifest as manifests
    from edge_vqa.bundles import store

    found = store.read(name)
    manifest = found.manifest
    if json_:
        print(manifests.render(manifest), end="")
        return
    q = manifest.quantisation
    terminal.say(f"{manifest.name} {manifest.version}: {manifest.description}")
    terminal.say(
        f"architecture   {manifest.architecture}, from {manifest.source.checkpoint} {manifest.source.revision}".rstrip()
    )
    terminal.say(f"licence        {manifest.licence}")
    terminal.say(f"quantisation   {q.method}:{q.type}, {q.bits_per_weight:.2f} bits a weight; vision tower {q.vision_type}")
    for role, file in manifest.files.items():
        terminal.say(f"{role:<14} {file.path}, {file.bytes / 1e6:.2f} MB")
    for point in manifest.operating_points:
        limit = "no threshold keeps it" if point.threshold is None else f"threshold {point.threshold:.3f}"
        terminal.say(
            f"risk {point.risk:<9.0%} {limit}, coverage {point.coverage:.0%} of {point.n} questions"
            f" ({point.confidence}, {point.method}, delta {point.delta:g}){' [default]' if point.default else ''}"
        )
        if (held := point.foreign) is not None:
            terminal.say(
                f"{'':14} with {held.share:.0%} foreign, as misleading as {held.data.replace('_', ' ')}, the worst tried:"
                f" risk at most {held.risk:.1%}"
            )
    for figure in manifest.measured:
        interval = "" if figure.low is None else f" [{figure.low:.3f}, {figure.high:.3f}]"
        terminal.say(
            f"measured       {figure.metric} {figure.value:.4f}{interval} on {figure.data}, n = {figure.n}, {figure.date}"
        )


@app.command("verify", epilog="Example: edge-vqa models verify mini")
def models_verify(
    name: Annotated[str | None, typer.Argument(help="Bundle (default: base where it is installed, else mini).")] = None,
    debug: DebugOption = False,
) -> None:
    """Compare every file of a bundle with its checksum."""
    del debug
    from edge_vqa.bundles import store

    found = store.read(name)
    store.verify(found, thorough=True)
    terminal.say(f"{found.name}: {len(found.files)} files intact")


@app.command(
    "pull",
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa models pull ggml-org/SmolVLM-500M-Instruct-GGUF\n
  edge-vqa models pull ggml-org/Qwen2.5-VL-3B-Instruct-GGUF --file "*q4_k_m*"\n
  edge-vqa models pull OWNER/REPO@REVISION --name mine\n\n
The bundle lands in $EDGE_VQA_HOME (default ~/.cache/edge-vqa); --model takes its name.
""",
)
def models_pull(
    repository: Annotated[str, typer.Argument(metavar="OWNER/REPO[@REVISION]", help="Repository on the Hugging Face hub.")],
    file: Annotated[
        list[str] | None,
        typer.Option("--file", metavar="PATTERN", help="Which files, where there are several; may be repeated."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the bundle (default: the repository's).")] = None,
    instruction: Annotated[str, typer.Option(help="Text put behind every question.")] = "",
    max_tokens: Annotated[int, typer.Option("--max-tokens", metavar="N", help="Longest answer.")] = 32,
    detail: Annotated[str, typer.Option(metavar="low|high", help="Default detail of pictures.")] = "low",
    chat_template: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Jinja chat template to use instead of the model's.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    debug: DebugOption = False,
) -> None:
    """Download a gguf pair or a bundle from the Hugging Face hub."""
    del debug
    from edge_vqa.bundles import template
    from edge_vqa.bundles.pull import pull

    folder, manifest = pull(
        repository,
        file or [],
        as_name=name,
        force=force,
        instruction=instruction,
        max_tokens=max_tokens,
        detail=detail,
        template=template.read(chat_template),
    )
    size = sum(stored.bytes for stored in manifest.files.values()) / 1e6
    terminal.say(f"{folder.name}: {manifest.description}, {size:.1f} MB, licence {manifest.licence}")
    terminal.say(f'try it: edge-vqa ask photo.jpg "what is this?" --model {folder.name}')


@app.command(
    "push",
    epilog="""
[bold]Examples[/bold]\n
  hf auth login\n
  edge-vqa models push mine OWNER/REPO\n
  edge-vqa models push mine OWNER/REPO --dry-run > README.md\n\n
All files of the bundle and a model card, written from bundle.json, go into one commit; what is there already is not sent again.
""",
)
def models_push(
    name: Annotated[str, typer.Argument(metavar="BUNDLE", help="Bundle, by name or folder.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/REPO", help="Repository on the Hugging Face hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make it private, where it is made.")] = False,
    keep_card: Annotated[bool, typer.Option("--keep-card", help="Leave the README.md that is there.")] = False,
    message: Annotated[str, typer.Option("--message", "-m", help="Of the commit (default: name and version).")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the model card, and upload nothing.")] = False,
    debug: DebugOption = False,
) -> None:
    """Upload a bundle, with a model card, to the Hugging Face hub."""
    del debug
    from edge_vqa.bundles import push, store

    found = store.read(name)
    to = push.checked(repository)
    if dry_run:
        store.verify(found, thorough=True)
        print(push.model_card(found, to), end="")
        for path in found.files.values():
            terminal.tell(f"would upload {path.name}, {path.stat().st_size / 1e6:.2f} MB")
        return
    terminal.say(push.push(found, to, private=private, keep_card=keep_card, message=message))
    terminal.tell(f"to use it: edge-vqa models pull {to}")
