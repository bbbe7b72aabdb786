#!/bin/sh
# Prefect's server, this project's deployments, and a worker: what is missing is started, in the background.
# `scripts/pipeline.sh stop` ends both. Logs: pipeline.log and worker.log in $PREFECT_HOME (~/.prefect).
set -eu
cd "$(dirname "$0")/.."
PATH="$(pwd -P)/.venv/bin:$PATH"
home="${PREFECT_HOME:-$HOME/.prefect}"
pid="$home/hire-worker.pid"
export DO_NOT_TRACK=true PREFECT_HOME="$home"
mkdir -p "$home"

alive() { [ -f "$pid" ] && kill -0 "$(cat "$pid")" 2>/dev/null; }
# the hook in flows/plugin.py ends this with status 1 where no server answers
answers() { prefect work-pool ls >/dev/null 2>&1; }

if [ "${1:-start}" = stop ]; then
    if alive; then
        kill "$(cat "$pid")" # while there still is a server to tell
        for _ in $(seq 60); do alive || break; sleep 1; done
        if alive; then kill -9 "$(cat "$pid")"; fi
    fi
    rm -f "$pid"
    prefect server stop
    exit
fi

quietly() { "$@" >"$home/pipeline.log" 2>&1 || { cat "$home/pipeline.log" >&2; exit 1; }; }

if ! answers; then
    echo "pipeline: starting Prefect's server"
    quietly prefect server start --background
    for _ in $(seq 60); do answers && break; sleep 1; done
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
for _ in $(seq 60); do
    prefect work-pool inspect hire | grep -q "WorkPoolStatus.READY" && break
    alive || { cat "$home/worker.log" >&2; exit 1; }
    sleep 1
done
echo "pipeline: ready. Next:  . .venv/bin/activate  and  prefect deployment run hire/retrain --watch"
