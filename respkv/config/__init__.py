"""The configuration: one tree of frozen dataclasses, every value typed and checked before anything starts.

A value comes from the first of these that has it: a flag (`--port 7001`), the environment (`RESPKV_PORT=7001`), the
TOML file (`port = 7001`), the default. In the environment and on the command line the keys of the `[cluster]` table
begin with `cluster-` (`RESPKV_CLUSTER_SHARDS`, `--cluster-shards`). An unknown key or a bad value is a `ConfigError`:
one line that names the option. Relative paths in a file are relative to that file's directory.

`tree` declares the options, `values` what a value may be, `load` brings the sources together, `live` holds the
configuration of a running server, in which CONFIG SET may change some options.
"""

from respkv.config.live import Live, Parameter, parameters
from respkv.config.load import ConfigError, load
from respkv.config.tree import Cluster, ClusterNode, Config, Option, options

__all__ = [
    "Cluster",
    "ClusterNode",
    "Config",
    "ConfigError",
    "Live",
    "Option",
    "Parameter",
    "load",
    "options",
    "parameters",
]
