# Runs the test files of a Redis checkout against a server that is already running, one file after another as the
# program `tcl.py` next to this file asks for them. The current directory is a copy of the checkout's `tests`.
#
# Redis's own harness does the work, in its "external" mode. What is changed here, at run time, is how it reports:
# a test that raises fails alone (Redis's --durable), what is unknown to the server between tests is passed over,
# every command that a test sends is told, and a failed test leaves nothing behind that makes others fail.
#
# With "own" as fourth argument, tests that Redis runs only on servers that it starts itself run too: for each
# `start_server` the runner starts a fresh server with the settings that are asked for.
#
# Arguments: the runner's port, the server's port, the file with the names of tests to leave out, "shared" or "own",
# further options.

set own_servers [expr {[lindex $argv 3] eq "own"}]
set options [lrange $argv 4 end]
set argv [list --client [lindex $argv 0] --host 127.0.0.1 --port [lindex $argv 1] --skipfile [lindex $argv 2] \
    --singledb --durable {*}$options]
set argc [llength $argv]

# Everything of the harness but its last statement, which begins to work.
set channel [open tests/test_helper.tcl]
set harness [read $channel]
close $channel
set end [string first "\nif {\$::client} \{" $harness]
if {$end < 0} {
    error "tests/test_helper.tcl does not look like that of Redis 7.0"
}
eval [string range $harness 0 $end]

# --- to the runner: a line "status length elapsed" and then the data

proc send_data_packet {fd status data {elapsed 0}} {
    fconfigure $fd -translation binary
    set data [encoding convertto utf-8 $data]
    puts $fd "$status [string length $data] $elapsed"
    puts -nonewline $fd $data
    flush $fd
}

# --- which commands a test sends, which settings it changes, which clients it lets cache

array set ::sent {}
array set ::configured {}
array set ::caching {}
rename ::redis::__dispatch__ ::redis::dispatch_of_redis
proc ::redis::__dispatch__ {id method args} {
    if {[info commands ::redis::__method__$method] eq {}} {
        set ::sent([string tolower $method]) 1
    }
    if {[string equal -nocase "$method [lindex $args 0]" "config set"]} {
        array set ::configured [lrange $args 1 end]
    }
    if {[string equal -nocase "$method [lrange $args 0 1]" "client tracking on"] && !$::redis::deferred($id)} {
        set ::caching($id) 1
    }
    if {$::cur_test ne {}} {
        tailcall ::redis::dispatch_of_redis $id $method {*}$args
    }
    # Preparations between tests: Redis may know what this server does not, or let in who began before a password.
    set code [catch {uplevel 1 [list ::redis::dispatch_of_redis $id $method {*}$args]} result]
    if {$code == 1 && [regexp -nocase "unknown command|^NOAUTH" $result]} {
        send_data_packet $::test_server_fd passed-over "$method: $result"
        return {}
    }
    return -code $code $result
}

# --- servers of a test's own

if {$own_servers} {
    rename tags_acceptable tags_acceptable_of_redis
    proc tags_acceptable {tags reason} {
        upvar $reason why
        tags_acceptable_of_redis [lsearch -all -inline -not -exact $tags "external:skip"] why
    }

    proc start_server {options {code undefined}} {
        array set asked {tags {} overrides {} config_lines {}}
        array set asked $options
        set tags [string map {\" ""} $asked(tags)]
        set ::tags [concat $::tags $tags]
        if {$code ne "undefined" && [tags_acceptable $::tags why]} {
            send_data_packet $::test_server_fd server-wanted [join [concat $asked(overrides) $asked(config_lines)] "\n"]
            set outer [list $::host $::port]
            set ::port [read $::test_server_fd [gets $::test_server_fd]]
            run_external_server_test $code {}
            send_data_packet $::test_server_fd server-unwanted $::port
            lassign $outer ::host ::port
        } else {
            send_data_packet $::test_server_fd ignore "a server without tests, or of tags that are left out"
        }
        set ::tags [lrange $::tags 0 end-[llength $tags]]
    }
}

# --- one test

proc read_all {client} {
    set token "read [clock clicks]"
    set reply [{*}$client echo $token]
    for {set tries 0} {$reply ne $token && $tries < 1000} {incr tries} {
        if {[catch {set reply [{*}$client read]} reply] && [string match "I/O error*" $reply]} {
            break
        }
    }
}

# After a failed test its connection goes on, since the next may want its user and protocol; but not its transaction,
# nor what nobody has read, now or a moment later. What the test would have set back at its end is set back.
proc find_feet {} {
    r deferred 0
    r readraw 0
    catch {r client reply on}
    catch {r discard}
    catch {r debug set-active-expire 1}
    foreach name [array names ::configured] {
        if {[dict exists $::settings $name]} {
            catch {r config set $name [dict get $::settings $name]}
        }
    }
    after 300
    read_all r
    foreach id [array names ::caching] {
        if {"::redis::redisHandle$id" ne [srv 0 client]} {
            catch {::redis::redisHandle$id client tracking off}
            catch {read_all ::redis::redisHandle$id}
        }
    }
}

rename test test_of_redis
proc test {args} {
    array unset ::sent
    array unset ::configured
    array unset ::caching
    if {![info exists ::settings]} {
        set ::settings [r config get *]
    }
    set failed $::num_failed
    set code [catch {uplevel 1 [list ::test_of_redis {*}$args]} result]
    if {$::cur_test eq {}} {
        send_data_packet $::test_server_fd sent [array names ::sent]
    }
    if {$::num_failed > $failed} {
        catch {find_feet}
    }
    set ::cur_test {}
    return -code $code $result
}

if {[catch {test_client_main $::test_server_port} error]} {
    catch {send_data_packet $::test_server_fd exception "$error\n$::errorInfo"}
    exit 1
}
