#!/bin/sh
# Prefect's server, this project's deployments, and a worker: what is missing is started, in the background.
# `scripts/pipeline.sh stop` ends both. Logs: server.log, pipeline.log and worker.log in $PREFECT_HOME (~/.prefect).
set -eu
cd "$(dirname "$0")/.."
PATH="$(pwd -P)/.venv/bin:$PATH"
home="${PREFECT_HOME:-$HOME/.prefect}"
pid="$home/hire-worker.pid"
export DO_NOT_TRACK=true PREFECT_HOME="$home"
mkdir -p "$home"

server="$home/server.pid" # where 'prefect server stop' looks
words_of() { tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" || ps -ww -o args= -p "$1"; }
# the number may be another process's by now, after a restart of the machine for instance: its command line tells
says() { { words_of "$(cat "$1")" | grep -q "$2"; } 2>/dev/null; }
runs() {
    [ -f "$1" ] || return 1
    says "$@" && return
    # one that has just begun may have no words yet, or those of this script: it is looked at once more
    kill -0 "$(cat "$1")" 2>/dev/null && sleep 1 && says "$@"
}
alive() { runs "$pid" "worker.*start.*--pool.*hire"; }
serves() { runs "$server" "prefect.*server"; }
ready() { prefect work-pool inspect hire 2>/dev/null | grep -q "WorkPoolStatus.READY"; }
# the hook in flows/plugin.py ends this with status 1 where no server answers
answers() { prefect work-pool ls >/dev/null 2>&1; }

if [ "${1:-start}" = stop ]; then
    if alive; then
        kill "$(cat "$pid")" # while there still is a server to tell
        for _ in $(seq 60); do alive || break; sleep 1; done
        if alive; then kill -9 "$(cat "$pid")"; fi
    fi
    rm -f "$pid"
    if serves; then prefect server stop; fi
    rm -f "$server"
    exit
fi

# await CHECK LIVES NAME: a minute at most until CHECK succeeds, or the end, with what NAME said, once its process is gone
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
    # 'prefect server start --background' leaves it writing into a pipe that nobody reads: its first warning ends it
    nohup prefect server start >"$home/server.log" 2>&1 &
    echo $! >"$server"
    await answers serves server
fi
echo "pipeline: deploying hire/retrain, hire/evaluate and hire/monitor"
prefect work-pool inspect hire >/dev/null 2>&1 || quietly prefect work-pool create hire --type process
quietly prefect --no-prompt deploy --all
if ! alive; then
    echo "pipeline: starting a worker"
    # a shell lets its background processes ignore SIGINT, by which a worker ends itself on SIGTERM
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
