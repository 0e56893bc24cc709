#!/usr/bin/env bash
# The one step of action.yml that runs qcam: gates, options and bundles come as environment variables, a word to a line.
set -u

words=(qcam "$QCAM_COMMAND")
while IFS= read -r line; do [ -n "$line" ] && words+=("$line"); done <<< "$QCAM_BUNDLES"
while IFS= read -r line; do [ -n "$line" ] && words+=(--fail-under "$line"); done <<< "$QCAM_GATES"
while IFS= read -r line; do [ -n "$line" ] && words+=("$line"); done <<< "$QCAM_ARGUMENTS"
words+=(--output "$QCAM_OUTPUT")

printf '%q ' "${words[@]}"
echo
"${words[@]}" 2> >(tee "${RUNNER_TEMP:-/tmp}/qcam-errors" >&2)
code=$?

case $code in
    0) verdict=holds ;;
    1) verdict="falls short" ;;
    3) verdict=undecided ;;
    *) verdict="no verdict" ;;
esac
{
    echo "code=$code"
    echo "verdict=$verdict"
} >> "$GITHUB_OUTPUT"
if [ "$verdict" = "no verdict" ]; then
    {
        echo "## qcam: no verdict (exit code $code)"
        echo
        echo '```text'
        tail -n 5 "${RUNNER_TEMP:-/tmp}/qcam-errors"
        echo '```'
    } >> "$GITHUB_STEP_SUMMARY"
elif [ -f "$QCAM_OUTPUT/verdict.md" ]; then
    cat "$QCAM_OUTPUT/verdict.md" >> "$GITHUB_STEP_SUMMARY"
fi

if [ $code -eq 3 ] && [ "$QCAM_UNDECIDED" = pass ]; then
    exit 0
fi
exit $code
