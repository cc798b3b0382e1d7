"""Command lines in one process, for those that Isaac Lab must be imported for: input and output are JSON.

Reads {case: [command, arguments]}; prints {case: [exit code, stderr]} behind the word RESULTS.
"""

import contextlib
import importlib
import io
import json
import sys

from tests.cli.refusals import run_command


def main():
    results = {}
    for case, (name, argv) in json.load(sys.stdin).items():
        command = getattr(importlib.import_module(f"spiky_rl.cli.{name}"), name)
        stderr = io.StringIO()
        with contextlib.redirect_stderr(stderr):
            try:
                code = run_command(command, argv)
            except Exception as error:  # pylint: disable=broad-exception-caught  # the test shows it
                code = 1
                print("Traceback:", repr(error), file=stderr)
        results[case] = code, stderr.getvalue()
    print("RESULTS" + json.dumps(results))


if __name__ == "__main__":
    main()
