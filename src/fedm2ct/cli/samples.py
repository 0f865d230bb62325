"""``fedm2ct samples``: what real scans are built in, and fetching them."""

import click


@click.command("samples", epilog="Example: fedm2ct samples --fetch")
@click.option("--fetch", is_flag=True, help="Fetch all of them into the cache now.")
def command(fetch: bool) -> None:
    """List the built-in real CT scans: what they are, their licence, whether they are cached."""
    from fedm2ct.data.samples import SAMPLES, fetch_many, is_cached

    if fetch:
        fetch_many(list(SAMPLES))
    for sample in SAMPLES.values():
        state = "cached" if is_cached(sample.name) else "not fetched"
        click.echo(f"{sample.name:<12} {state:<12} {sample.licence:<12} {sample.description}")
