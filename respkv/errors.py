"""Every error text a client can see, in one place, in Redis 7.0's words where Redis has the case.

Each function makes a new `RespError` (a shared instance would collect the traceback of everyone who raised it): raise
it inside a command, or return it as a reply. Text that came from a client is cut as Redis cuts it (128 bytes, at a NUL)
and freed of line breaks, so that it cannot end the reply early.

What goes wrong with a command in a cluster is told by the first word: `CLUSTERDOWN` and `MISCONF` mean that
the command was *not applied* and may be sent again; `TIMEOUT` means that it *may have been applied*.
"""

from __future__ import annotations

from collections.abc import Sequence

from respkv.reply import RespError

_QUOTED_BYTES_MAX = 128


def quoted(text: bytes, bytes_max: int = _QUOTED_BYTES_MAX) -> str:
    """A client's bytes as they may appear inside an error line: cut, on one line.

    Bytes that are not UTF-8 stay as surrogate escapes, which the encoder turns back.
    """
    cut = text.split(b"\0", 1)[0][:bytes_max]
    return cut.decode("utf-8", "surrogateescape").replace("\r", " ").replace("\n", " ")


# --- the command and its arguments ---


def unknown_command(args: Sequence[bytes]) -> RespError:
    """`args` is the whole command, name first."""
    shown, shown_bytes = "", 0
    for arg in args[1:]:
        if shown_bytes >= _QUOTED_BYTES_MAX:
            break
        cut = arg.split(b"\0", 1)[0][: _QUOTED_BYTES_MAX - shown_bytes]
        shown += f"'{quoted(cut)}' "
        shown_bytes += len(cut) + 3
    return RespError(f"ERR unknown command '{quoted(args[0])}', with args beginning with: {shown}")


def unknown_subcommand(command: bytes, subcommand: bytes) -> RespError:
    return RespError(f"ERR unknown subcommand '{quoted(subcommand)}'. Try {quoted(command).upper()} HELP.")


def bad_subcommand_syntax(command: bytes, subcommand: bytes) -> RespError:
    """A known container whose subcommand did not understand its arguments."""
    return RespError(
        f"ERR unknown subcommand or wrong number of arguments for '{quoted(subcommand)}'. "
        f"Try {quoted(command).upper()} HELP."
    )


def arity(name: str) -> RespError:
    """`name` is the lower-case full name, `"client|list"` for a subcommand."""
    return RespError(f"ERR wrong number of arguments for '{name}' command")


def generic(text: str) -> RespError:
    """A plain `ERR`, for a text that only one command has."""
    return RespError("ERR " + text.replace("\r", " ").replace("\n", " "))


def syntax() -> RespError:
    return RespError("ERR syntax error")


def wrong_type() -> RespError:
    return RespError("WRONGTYPE Operation against a key holding the wrong kind of value")


def not_integer() -> RespError:
    return RespError("ERR value is not an integer or out of range")


def out_of_range() -> RespError:
    return RespError("ERR value is out of range")


def not_float() -> RespError:
    return RespError("ERR value is not a valid float")


def increment_overflow() -> RespError:
    return RespError("ERR increment or decrement would overflow")


def decrement_overflow() -> RespError:
    return RespError("ERR decrement would overflow")


def increment_not_finite() -> RespError:
    return RespError("ERR increment would produce NaN or Infinity")


def string_too_long() -> RespError:
    return RespError("ERR string exceeds maximum allowed size (proto-max-bulk-len)")


def offset_out_of_range() -> RespError:
    return RespError("ERR offset is out of range")


def invalid_expire(name: str) -> RespError:
    return RespError(f"ERR invalid expire time in '{name}' command")


def unsupported_option(option: bytes) -> RespError:
    shown = option.split(b"\0", 1)[0].rstrip(b"\r\n")
    return RespError(f"ERR Unsupported option {quoted(shown, len(shown))}")


def expire_nx_with_others() -> RespError:
    return RespError("ERR NX and XX, GT or LT options at the same time are not compatible")


def expire_gt_with_lt() -> RespError:
    return RespError("ERR GT and LT options at the same time are not compatible")


def invalid_cursor() -> RespError:
    return RespError("ERR invalid cursor")


def no_such_key() -> RespError:
    return RespError("ERR no such key")


def same_object() -> RespError:
    return RespError("ERR source and destination objects are the same")


def busy_key() -> RespError:
    return RespError("BUSYKEY Target key name already exists.")


def key_too_long(bytes_max: int) -> RespError:
    return RespError(f"ERR key exceeds maximum allowed size ({bytes_max} bytes)")


# --- connection and authentication ---


def db_out_of_range() -> RespError:
    return RespError("ERR DB index is out of range")


def select_in_cluster() -> RespError:
    return RespError("ERR SELECT is not allowed in cluster mode")


def no_auth() -> RespError:
    return RespError("NOAUTH Authentication required.")


def hello_no_auth() -> RespError:
    return RespError(
        "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> "
        "option can be used to authenticate the client and select the RESP protocol version at the same time"
    )


def wrong_pass() -> RespError:
    return RespError("WRONGPASS invalid username-password pair or user is disabled.")


def auth_without_password() -> RespError:
    return RespError(
        "ERR AUTH <password> called without any password configured for the default user. "
        "Are you sure your configuration is correct?"
    )


def no_permission(name: str) -> RespError:
    return RespError(f"NOPERM this user has no permissions to run the '{name}' command")


def no_permission_key() -> RespError:
    return RespError("NOPERM this user has no permissions to access one of the keys used as arguments")


def no_permission_channel() -> RespError:
    return RespError("NOPERM this user has no permissions to access one of the channels used as arguments")


def no_permission_any_more(reason: str) -> RespError:
    """EXEC's reply for a command that might be run when it was queued."""
    return RespError(
        "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. "
        f"This command is no longer allowed for the following reason: {reason}"
    )


def acl_modifier(rule: bytes, reason: str) -> RespError:
    return generic(f"Error in ACL SETUSER modifier '{quoted(rule, len(rule))}': {reason}")


def users_unknown() -> RespError:
    """A node that has no memory of its own must hear of the cluster's users before it can let anybody in."""
    return RespError("LOADING the users of the cluster are not known here yet; the command was not applied")


def protected_mode() -> RespError:
    return RespError(
        "DENIED Redis is running in protected mode because protected mode is enabled and no password is set for the "
        "default user. In this mode connections are only accepted from the loopback interface. If you want to connect "
        "from external computers to Redis you may adopt one of the following solutions: 1) Just disable protected mode "
        "sending the command 'CONFIG SET protected-mode no' from the loopback interface by connecting to Redis from "
        "the same host the server is running, however MAKE SURE Redis is not publicly accessible from internet if you "
        "do so. Use CONFIG REWRITE to make this change permanent. 2) Alternatively you can just disable the protected "
        "mode by editing the Redis configuration file, and setting the protected mode option to 'no', and then "
        "restarting the server. 3) If you started the server manually just for testing, restart it with the "
        "'--protected-mode no' option. 4) Setup a an authentication password for the default user. NOTE: You only "
        "need to do one of the above things in order for the server to start accepting connections from the outside."
    )


def no_proto() -> RespError:
    return RespError("NOPROTO unsupported protocol version")


def proto_not_integer() -> RespError:
    return RespError("ERR Protocol version is not an integer or out of range")


def hello_syntax(option: bytes) -> RespError:
    return RespError(f"ERR Syntax error in HELLO option '{quoted(option, len(option))}'")


def client_name() -> RespError:
    return RespError("ERR Client names cannot contain spaces, newlines or special characters.")


def no_such_client() -> RespError:
    return RespError("ERR No such client")


def debug_not_allowed() -> RespError:
    return RespError(
        "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it from a "
        "local connection, otherwise you need to set this option in the configuration file, and then restart the "
        "server."
    )


def max_clients() -> RespError:
    return RespError("ERR max number of clients reached")


def protocol(text: str) -> RespError:
    """A malformed frame; the connection is closed after it. `text`: `"Protocol error: invalid multibulk length"`."""
    return RespError(f"ERR {text}")


def while_subscribed(name: str) -> RespError:
    return RespError(
        f"ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this "
        "context"
    )


def unblocked() -> RespError:
    return RespError("UNBLOCKED client unblocked via CLIENT UNBLOCK")


# --- transactions ---


def multi_nested() -> RespError:
    return RespError("ERR MULTI calls can not be nested")


def exec_without_multi() -> RespError:
    return RespError("ERR EXEC without MULTI")


def discard_without_multi() -> RespError:
    return RespError("ERR DISCARD without MULTI")


def watch_inside_multi() -> RespError:
    return RespError("ERR WATCH inside MULTI is not allowed")


def not_in_multi() -> RespError:
    return RespError("ERR Command not allowed inside a transaction")


def exec_abort() -> RespError:
    return RespError("EXECABORT Transaction discarded because of previous errors.")


def exec_abort_because(error: RespError) -> RespError:
    return RespError(f"EXECABORT Transaction discarded because of: {error.text.removeprefix('ERR ')}")


def transaction_too_large(commands_max: int, bytes_max: int) -> RespError:
    return RespError(f"ERR a transaction may hold {commands_max} commands and {bytes_max >> 20} MiB at the most")


def too_many_watched(keys_max: int) -> RespError:
    return RespError(f"ERR a connection may watch {keys_max} keys at the most")


# --- where a key lives ---


def cross_slot() -> RespError:
    return RespError("CROSSSLOT Keys in request don't hash to the same slot")


def moved(slot: int, host: str, port: int) -> RespError:
    return RespError(f"MOVED {slot} {host}:{port}")


def slot_not_served() -> RespError:
    return RespError("CLUSTERDOWN Hash slot not served")


# --- what happened to a command in the cluster ---


def cluster_down(reason: str = "no leader for the shard of this key") -> RespError:
    """Nothing was proposed: safe to send again."""
    return RespError(f"CLUSTERDOWN {reason}; the command was not applied")


def timeout(reason: str = "no outcome in time") -> RespError:
    """An entry may exist somewhere: only the data can tell."""
    return RespError(f"TIMEOUT {reason}; the command may have been applied")


def partly_applied(error: RespError) -> RespError:
    """Of a command that spans shards, some did their part and one answered `error`."""
    return RespError(f"TIMEOUT some shards applied their part, another answered '{error.text}'; "
                     "the command may have been applied in part")


def misconf(reason: str) -> RespError:
    """Writes are refused before anything is proposed (disk full, damage, read-only by the operator)."""
    return RespError(f"MISCONF writes are refused: {reason}; the command was not applied")


def too_much_at_once(bytes_max: int) -> RespError:
    """What is written together has grown too large for the log; sent again by itself the command may do."""
    return RespError(f"ERR commands that are applied together may write about {bytes_max >> 20} MiB at the most; "
                     "the command was not applied")


def oom() -> RespError:
    """`maxmemory` is reached."""
    return RespError("OOM command not allowed when used memory > 'maxmemory'.")


def is_oom(error: RespError | None) -> bool:
    return error is not None and error.text.startswith("OOM ")


def damaged(where: str) -> RespError:
    """A read of a value that is not what it was, where no other replica has it."""
    return RespError(f"ERR the value is damaged on the disk and there is no other replica: {where}")


def unreadable(reason: str) -> RespError:
    """The system refuses what it takes to read a value (descriptors, for instance), which may pass."""
    return RespError(f"ERR the value cannot be read now: {reason}")


def is_outcome_unknown(error: RespError) -> bool:
    return error.text.startswith("TIMEOUT ")
