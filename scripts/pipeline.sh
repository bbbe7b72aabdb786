#!/bin/sh
# Start what is missing of: Prefect's server, this project's deployments, a worker. All run in the background.
# `scripts/pipeline.sh stop` ends both. Logs: server.log, pipeline.log and worker.log in $PREFECT_HOME (~/.prefect).
set -eu
cd "$(dirname "$0")/.."
PATH="$(pwd -P)/.venv/bin:$PATH"
home="${PREFECT_HOME:-$HOME/.prefect}"
worker_pid="$home/hire-worker.pid"
server_pid="$home/server.pid" # the file that 'prefect server stop' reads
export DO_NOT_TRACK=true PREFECT_HOME="$home"
mkdir -p "$home"

command_line() { tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" || ps -ww -o args= -p "$1"; }
# After a restart of the machine, another process may have the pid of the file. Compare its command line.
matches() { { command_line "$(cat "$1")" | grep -q "$2"; } 2>/dev/null; }
is_running() {
    [ -f "$1" ] || return 1
    matches "$@" && return
    # A process that has just started may not have its final command line yet. Check once more.
    kill -0 "$(cat "$1")" 2>/dev/null && sleep 1 && matches "$@"
}
worker_is_running() { is_running "$worker_pid" "worker.*start.*--pool.*hire"; }
server_is_running() { is_running "$server_pid" "prefect.*server"; }
pool_is_ready() { prefect work-pool inspect hire 2>/dev/null | grep -q "WorkPoolStatus.READY"; }
# If no server answers, the hook in flows/plugin.py ends this command with status 1.
server_answers() { prefect work-pool ls >/dev/null 2>&1; }

if [ "${1:-start}" = stop ]; then
    if worker_is_running; then
        kill "$(cat "$worker_pid")" # before the server, so that the worker can report its end
        for _ in $(seq 60); do worker_is_running || break; sleep 1; done
        if worker_is_running; then kill -9 "$(cat "$worker_pid")"; fi
    fi
    rm -f "$worker_pid"
    if server_is_running; then prefect server stop; fi
    rm -f "$server_pid"
    exit
fi

# wait_for CHECK IS_RUNNING NAME: wait up to a minute until CHECK succeeds. If the process has ended, print NAME's log and exit.
wait_for() {
    for _ in $(seq "${PIPELINE_TRIES:-60}"); do
        "$1" && return
        "$2" || { cat "$home/$3.log" >&2; echo "pipeline: the $3 has ended; its log $home/$3.log is above" >&2; exit 1; }
        sleep 1
    done
}
run_quietly() { "$@" >"$home/pipeline.log" 2>&1 || { cat "$home/pipeline.log" >&2; exit 1; }; }

if ! server_answers; then
    echo "pipeline: starting Prefect's server"
    # 'prefect server start --background' writes into a pipe without a reader, and ends at its first warning.
    nohup prefect server start >"$home/server.log" 2>&1 &
    echo $! >"$server_pid"
    wait_for server_answers server_is_running server
fi
echo "pipeline: deploying hire/retrain, hire/evaluate and hire/monitor"
prefect work-pool inspect hire >/dev/null 2>&1 || run_quietly prefect work-pool create hire --type process
run_quietly prefect --no-prompt deploy --all
if ! worker_is_running; then
    echo "pipeline: starting a worker"
    # Background processes of a shell ignore SIGINT, but on SIGTERM the worker ends itself with SIGINT. Restore it.
    nohup python -c 'import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp("prefect", ["prefect", "worker", "start", "--pool", "hire"])' >"$home/worker.log" 2>&1 &
    echo $! >"$worker_pid"
fi
wait_for pool_is_ready worker_is_running worker
if ! pool_is_ready; then
    echo "pipeline: the pool hire is not ready, although a worker (process $(cat "$worker_pid")) is running. Expected: it" \
        "connects to the server within two minutes. Read $home/worker.log, then run 'make stop' and 'make pipeline'." >&2
    exit 1
fi
api="${PREFECT_API_URL:-http://${PREFECT_SERVER_API_HOST:-127.0.0.1}:${PREFECT_SERVER_API_PORT:-4200}/api}"
echo "pipeline: the page of Prefect is ${api%/api}"
echo "pipeline: ready. Next:  . .venv/bin/activate  and  prefect deployment run hire/retrain --watch"
