#!/usr/bin/env bash
# The one step of action.yml that runs qcam: gates, options and bundles come as environment variables, a word to a line.
set -u

words=(qcam "$QCAM_COMMAND")
while IFS= read -r line; do [ -n "$line" ] && words+=("$line"); done <<< "$QCAM_BUNDLES"
while IFS= read -r line; do [ -n "$line" ] && words+=(--fail-under "$line"); done <<< "$QCAM_GATES"
while IFS= read -r line; do [ -n "$line" ] && words+=("$line"); done <<< "$QCAM_ARGUMENTS"
words+=(--output "$QCAM_OUTPUT")

errors="${RUNNER_TEMP:-/tmp}/qcam-errors"
judged="$QCAM_OUTPUT/verdict.md"
summary="${GITHUB_STEP_SUMMARY:-/dev/null}"

printf '%q ' "${words[@]}"
echo
rm -f -- "$judged" # an earlier run's is not this one's
{ "${words[@]}" 2>&1 >&3 3>&- | tee "$errors" >&2; code=${PIPESTATUS[0]}; } 3>&1

case $code in
    0) verdict=holds ;;
    1) verdict="falls short" ;;
    3) verdict=undecided ;;
    *) verdict="no verdict" ;;
esac
if [ "$verdict" != "no verdict" ] && [ ! -f "$judged" ]; then
    # Nothing was judged: no gates, a dry run, or a program that broke before it began.
    echo "error: exit code $code, and no verdict was written to $QCAM_OUTPUT; were gates given?" | tee -a "$errors" >&2
    verdict="no verdict" code=2
fi
{
    echo "code=$code"
    echo "verdict=$verdict"
} >> "${GITHUB_OUTPUT:-/dev/null}"
if [ "$verdict" = "no verdict" ]; then
    {
        echo "## qcam: no verdict (exit code $code)"
        echo
        # Indented, which no text can end as it ends a fence.
        tr '\r' '\n' < "$errors" | tail -n 5 | sed 's/^/    /'
    } >> "$summary"
else
    cat "$judged" >> "$summary"
fi

if [ "$code" -eq 3 ] && [ "$QCAM_UNDECIDED" = pass ]; then
    exit 0
fi
exit "$code"
