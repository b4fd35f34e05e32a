"""The `respkv` command: what a person types, and what the process answers with.

Exit status: 0 done, 1 it ran and something is wrong, 2 it was asked for something it cannot do. For the last there is
one line on standard error that names the option; never a traceback. What a command needs is imported when it runs.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.exceptions import UnusedCliTokensError
from cyclopts.help import ColumnSpec, DefaultFormatter, DescriptionRenderer, NameRenderer

from respkv import __version__
from respkv.config import ConfigError, Option, load, options
from respkv.config.redis import as_text
from respkv.config.values import Choice
from respkv.config.values import directory as path_of_directory

ABOUT = """A Redis-protocol server whose state you can trust: sharded, replicated, durable,
linearizable.

Start here:

    respkv cluster ./data     three nodes here; then: redis-cli -p 7001
    respkv server             one node at 127.0.0.1:6379, data in ./respkv-data
    respkv status             who leads what, and how far each replica is

`respkv COMMAND --help` tells more.
"""

SERVER = """Runs one node in the foreground until SIGTERM or Ctrl-C.

For example:

    respkv server --dir /var/lib/respkv --port 6379
    respkv server --config /etc/respkv/respkv.toml --log-level debug
    RESPKV_REQUIREPASS=secret respkv server

Every option can be a flag, a variable of the environment (RESPKV_PORT=7001) or
a line of the TOML file; the first of these that has it counts.
conf/respkv.toml explains them all.
"""

CLUSTER = """Runs a whole cluster on this machine, each node as a process of its own.

For example:

    respkv cluster ./data                   3 nodes, 3 shards, each on 3 nodes
    respkv cluster ./data --nodes 5 --shards 8 --port 9001
    respkv cluster ./data --hosts 127.0.0.1,127.0.0.2,127.0.0.3
    respkv cluster ./data --init-only       only write DIR/node-*/respkv.toml

The first run writes DIR/node-1/respkv.toml and so on; later runs use these
files as they are. Node i listens at three ports:

    port + i - 1    standalone view     redis-cli -p 7001
    1000 higher     cluster view        redis-cli -c -p 8001
    10000 higher    the other nodes

Each node logs to DIR/node-i/respkv.log. Ctrl-C stops the nodes that this
command started. A node that runs already is left alone; one that ends is
reported and not started again.
"""

STATUS = """Shows nodes, shards, leaders and how far each replica is.

For example:

    respkv status
    respkv status --url redis://:password@10.0.0.1:6379
    respkv status --url localhost:7001 --json

Exit status 0 if every node answers and every shard has a leader, else 1.
"""

CHECK = """Verifies every byte of a stopped node's data: the Bitcask files of all shards,
and the journal. Changes nothing.

For example:

    respkv check ./data/node-1

Exit status 0 if all is well; 1 if there is damage, each finding on a line;
2 if DIR is not a node's directory or is in use.
"""

KEYSLOT = """Tells the hash slot of a key, and with --url which shard and node of a running
cluster has it.

For example:

    respkv keyslot user:1000
    respkv keyslot '{user:1000}.cart' --url localhost:7001
"""

app = App(
    name="respkv", version=f"respkv {__version__}", version_flags=["--version"], help=ABOUT, help_format="plaintext"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line (without the program's name) and returns the exit status."""
    try:
        result = app(
            sys.argv[1:] if argv is None else argv,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
        sys.stdout.flush()
    except (CycloptsError, ConfigError) as error:
        print(f"respkv: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `respkv status | head`; nothing may be written any more, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return result if isinstance(result, int) else 0


def _one_line(error: Exception) -> str:
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument {error.unused_tokens[0]!r}"
    return " ".join(str(error).split()).rstrip(".")


def _directory(text: str) -> Path:
    try:
        return path_of_directory(text)
    except ValueError as error:
        raise ConfigError("DIR", str(error)) from None


def _server(*, config: Path | None = None, **flags: str | None) -> int:
    if config is None and os.environ.get("RESPKV_CONFIG"):
        config = Path(os.environ["RESPKV_CONFIG"])
    given = {name.replace("_", "-"): value for name, value in flags.items() if value is not None}
    loaded = load(config, flags=given)

    from respkv import log

    try:
        log.setup(loaded.log_level, loaded.log_format, loaded.log_file)
    except OSError as error:
        raise ConfigError("log-file", f"{loaded.log_file}: {error.strerror}") from None

    from respkv import node
    from respkv.server import preflight

    preflight.check(loaded)
    return node.run(loaded)


def _about(option: Option) -> str:
    """Its sentence, what may be chosen, and the default as it would be written."""
    choices = f" [choices: {', '.join(option.parse.words)}]" if isinstance(option.parse, Choice) else ""
    default = as_text(option.default)
    return option.about + choices + (f" [default: {default}]" if default else "")


def _server_signature() -> inspect.Signature:
    """`_server` with one flag for every option of the configuration, so that --help lists them."""
    group = Group("Options of the configuration", sort_key=1)
    kind = inspect.Parameter.KEYWORD_ONLY

    def flag(name: str, about: str, annotation: Any = str | None) -> inspect.Parameter:
        cli = Parameter(name=f"--{name}", help=about, group=group, show_default=False)
        return inspect.Parameter(name.replace("-", "_"), kind, default=None, annotation=Annotated[annotation, cli])

    about = "TOML file to read (also RESPKV_CONFIG)."
    file = Annotated[Path | None, Parameter(name="--config", help=about, show_default=False)]
    parameters = [inspect.Parameter("config", kind, default=None, annotation=file)]
    for option in options().values():
        parameters.append(flag(option.flag[2:], _about(option)))
    parameters.append(flag("cluster-nodes", "All nodes: n1=10.0.0.1:6379,n2=10.0.0.2:6379,..."))
    return inspect.Signature(parameters, return_annotation=int)


_server.__signature__ = _server_signature()  # type: ignore[attr-defined]
_server.__annotations__ = {name: parameter.annotation for name, parameter in _server_signature().parameters.items()}

# Long names are shown whole, however narrow the terminal.
_COLUMNS = (
    ColumnSpec(renderer=NameRenderer(), style="cyclopts.name", no_wrap=True),
    ColumnSpec(renderer=DescriptionRenderer(), overflow="fold"),
)
app.command(_server, name="server", help=SERVER, help_formatter=DefaultFormatter(column_specs=_COLUMNS))


@app.command(name="cluster", help=CLUSTER)
def _cluster(
    directory: Annotated[str, Parameter(name="DIR", help="Where the nodes keep everything.")],
    /,
    *,
    nodes: Annotated[int | None, Parameter(help="Number of nodes. [default: 3]")] = None,
    shards: Annotated[int | None, Parameter(help="Number of shards. [default: 3]")] = None,
    replicas: Annotated[int | None, Parameter(help="Nodes that hold each shard. [default: 3]")] = None,
    port: Annotated[int | None, Parameter(help="Port of node 1. [default: 7001]")] = None,
    hosts: Annotated[str | None, Parameter(help="One address for all, or one per node. [default: 127.0.0.1]")] = None,
    init_only: Annotated[bool, Parameter(negative="", help="Write the configuration and stop.")] = False,
) -> int:
    from respkv.cli import cluster

    return cluster.run(_directory(directory), cluster.Wanted(nodes, shards, replicas, port, hosts), init_only=init_only)


@app.command(name="status", help=STATUS)
def _status(
    *,
    url: Annotated[str, Parameter(help="Any node of the cluster.")] = "redis://127.0.0.1:6379",
    json: Annotated[bool, Parameter(negative="", help="Print JSON.")] = False,
) -> int:
    from respkv.cli import status

    return status.run(url, as_json=json)


@app.command(name="check", help=CHECK)
def _check(directory: Annotated[str, Parameter(name="DIR", help="The directory of one node.")], /) -> int:
    from respkv.cli import check

    return check.run(_directory(directory))


@app.command(name="keyslot", help=KEYSLOT)
def _keyslot(
    key: Annotated[str, Parameter(name="KEY", help="The key.")],
    /,
    *,
    url: Annotated[str | None, Parameter(help="Any node of a running cluster.", show_default=False)] = None,
) -> int:
    from respkv.cli import keyslot

    return keyslot.run(key, url)
