#!/bin/sh
# Start Prefect's server and a worker in the background unless they are running, and deploy this project's flows.
# `scripts/pipeline.sh stop` ends server and worker. Logs: server.log, pipeline.log and worker.log in $PREFECT_HOME (~/.prefect).
set -eu
cd "$(dirname "$0")/.."
PATH="$(pwd -P)/.venv/bin:$PATH"
home="${PREFECT_HOME:-$HOME/.prefect}"
pid="$home/hire-worker.pid"
export DO_NOT_TRACK=true PREFECT_HOME="$home"
mkdir -p "$home"

server="$home/server.pid" # where 'prefect server stop' looks
command_line() { tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" || ps -ww -o args= -p "$1"; }
# another process may have the recorded number, for instance after a restart of the machine: check its command line
matches() { { command_line "$(cat "$1")" | grep -q "$2"; } 2>/dev/null; }
runs() {
    [ -f "$1" ] || return 1
    matches "$@" && return
    # a process that has just started may have no command line yet, or that of this script: check once more
    kill -0 "$(cat "$1")" 2>/dev/null && sleep 1 && matches "$@"
}
alive() { runs "$pid" "worker.*start.*--pool.*hire"; }
serves() { runs "$server" "prefect.*server"; }
ready() { prefect work-pool inspect hire 2>/dev/null | grep -q "WorkPoolStatus.READY"; }
# the hook in flows/plugin.py ends this with status 1 where no server answers
answers() { prefect work-pool ls >/dev/null 2>&1; }

if [ "${1:-start}" = stop ]; then
    if alive; then
        kill "$(cat "$pid")" # before the server, so that it can report its end
        for _ in $(seq 60); do alive || break; sleep 1; done
        if alive; then kill -9 "$(cat "$pid")"; fi
    fi
    rm -f "$pid"
    if serves; then prefect server stop; fi
    rm -f "$server"
    exit
fi

# await CHECK ALIVE NAME: wait a minute at most until CHECK succeeds; if process NAME ends, print its log and exit
await() {
    for _ in $(seq "${PIPELINE_TRIES:-60}"); do
        "$1" && return
        "$2" || { cat "$home/$3.log" >&2; echo "pipeline: the $3 has ended; above is $home/$3.log" >&2; exit 1; }
        sleep 1
    done
}
quietly() { "$@" >"$home/pipeline.log" 2>&1 || { cat "$home/pipeline.log" >&2; exit 1; }; }

if ! answers; then
    echo "pipeline: starting Prefect's server"
    # 'prefect server start --background' makes it write into a pipe without a reader: its first warning ends it
    nohup prefect server start >"$home/server.log" 2>&1 &
    echo $! >"$server"
    await answers serves server
fi
echo "pipeline: deploying hire/retrain, hire/evaluate and hire/monitor"
prefect work-pool inspect hire >/dev/null 2>&1 || quietly prefect work-pool create hire --type process
quietly prefect --no-prompt deploy --all
if ! alive; then
    echo "pipeline: starting a worker"
    # a shell makes its background processes ignore SIGINT, which a worker sends to itself on SIGTERM
    nohup python -c 'import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp("prefect", ["prefect", "worker", "start", "--pool", "hire"])' >"$home/worker.log" 2>&1 &
    echo $! >"$pid"
fi
await ready alive worker
if ! ready; then
    echo "pipeline: the pool hire is not ready, although a worker (process $(cat "$pid")) is running. Expected that it" \
        "reports to the server within a minute or two: look into $home/worker.log, then 'make stop' and again." >&2
    exit 1
fi
echo "pipeline: ready. Next:  . .venv/bin/activate  and  prefect deployment run hire/retrain --watch"
