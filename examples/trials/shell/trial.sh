#!/bin/sh
# A trial in plain shell: any program that reads the work order and writes a report can be one.
#
# It takes the user's parameter "width", times a small piece of work with it, and reports two metrics:
# "seconds" and "area". Needs a POSIX shell, sed, grep, awk and date; no JSON tool, for it reads only the few
# keys that it needs from a document whose form is fixed: the operator writes compact JSON with the keys in
# the order of docs/contract/work-order.schema.json.
set -eu

fail() {
    printf 'trial.sh: %s\n' "$1" >&2
    exit 2
}

# The order stands in the environment, or in a file where it is large.
order=${NASCALE_WORK_ORDER:-}
if [ -z "$order" ]; then
    [ -n "${NASCALE_WORK_ORDER_FILE:-}" ] || fail 'NASCALE_WORK_ORDER or NASCALE_WORK_ORDER_FILE must be set'
    order=$(cat "$NASCALE_WORK_ORDER_FILE")
fi
case $order in
    '{"version":"nascale.io/work-order/v1",'*) ;;
    *) fail 'the work order must be of version nascale.io/work-order/v1' ;;
esac
attempt=$(printf '%s' "$order" | sed -n 's/.*},"attempt":\([0-9]*\),.*/\1/p')

# One line per candidate: its trial and its parameter "width".
candidates=$(
    printf '%s' "$order" |
        grep -o '{"trial":"[-a-z0-9.]*","index":[0-9]*,"parameters":{[^}]*}' |
        sed 's/{"trial":"\([-a-z0-9.]*\)".*"width":\([0-9]*\).*/\1 \2/'
)
[ -n "$candidates" ] || fail 'the work order must hold candidates with a parameter "width"'

# The work itself; SIGTERM ends it here, and nothing is reported.
results=$(
    printf '%s\n' "$candidates" | while read -r trial width; do
        case $width in
            '' | *[!0-9]*)
                message='parameters.width must be a whole number'
                printf '{"trial":"%s","outcome":"Failed","reason":"BadParameter","message":"%s"}\n' \
                    "$trial" "$message"
                continue
                ;;
        esac
        begin=$(date +%s.%N) # whole seconds where date knows no %N
        area=$(awk -v side="$width" 'BEGIN { for (i = 0; i < side * side; i++) area++; print area + 0 }')
        end=$(date +%s.%N)
        seconds=$(awk -v begin="$begin" -v end="$end" 'BEGIN { printf "%.6f", end - begin }')
        printf '{"trial":"%s","outcome":"Succeeded","metrics":{"seconds":%s,"area":%s},"deviceSeconds":%s}\n' \
            "$trial" "$seconds" "$area" "$seconds"
    done | paste -s -d , -
)

# The report is written beside its place and moved into it, so that nobody ever reads half of it. Where the
# file is a mount, as /dev/termination-log is, nothing can be moved over it: there it is written in one go.
report=$(
    printf '{"version":"nascale.io/report/v1","attempt":%s,"results":[%s]}' "${attempt:-0}" "$results"
)
log=${NASCALE_TERMINATION_LOG:-/dev/termination-log}
if ! { printf '%s' "$report" >"$log.tmp" && mv -f "$log.tmp" "$log"; } 2>/dev/null; then
    rm -f "$log.tmp"
    printf '%s' "$report" >"$log"
fi
