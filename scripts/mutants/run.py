"""Builds a package with all mutants of a module in it, and runs for each the tests that reach it, until one fails."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import plant

MEMORY = 6 << 30  # bytes: of a mutant that never stops taking more
AT_ONCE = 2
# A property test is not to look for the simplest case, nor to keep it.
CALM = {"PROPTEST_MAX_SHRINK_ITERS": "0", "PROPTEST_DISABLE_FAILURE_PERSISTENCE": "1", "RUST_BACKTRACE": "0"}


def say(text):
    print(text, file=sys.stderr, flush=True)


class Test:
    def __init__(self, binary, name):
        self.binary, self.name = binary, name
        self.seconds, self.reached = 20.0, set()

    def passes(self, folder, **variables):
        """Whether it ends well, in ten times its time."""
        seconds = 10 * self.seconds
        command = ["prlimit", f"--cpu={5 + int(seconds)}", f"--as={MEMORY}", "--core=0", "--"]
        command += [self.binary, "--exact", self.name, "--quiet", "--test-threads=1"]
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | CALM | variables, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            return process.wait(30 + seconds) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()

    def measure(self, folder, functions):
        """Runs it without a mutant, and sees which functions it reaches. False: it fails."""
        with tempfile.NamedTemporaryFile() as file:
            began = time.monotonic()
            if not self.passes(folder, ONEIP_REACHED=file.name):
                return False
            self.seconds = time.monotonic() - began
            self.reached = {at for at in range(functions) if file.read(1) == b"x"}
            return True


def build(folder, tests):
    """The test binaries, and what the compiler says is wrong."""
    return cargo(folder, "test", "--no-run", *("--lib" if test == "lib" else f"--test={test}" for test in tests))


def cargo(folder, verb, *arguments):
    command = ["cargo", verb, "--jobs=2", "--message-format=json", *arguments]
    output = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    messages = [json.loads(line) for line in output.stdout.splitlines() if line.startswith("{")]
    errors = [found["message"] for found in messages if found["reason"] == "compiler-message" and found["message"]["level"] == "error"]
    binaries = [found["executable"] for found in messages if found["reason"] == "compiler-artifact" and found["profile"]["test"] and found["executable"]]
    if output.returncode and not errors:
        sys.exit(f"error: {' '.join(command)} fails in {folder}:\n{output.stderr[-3000:]}")
    return binaries, [error for error in errors if error["spans"]]


def build_planted(planted, tests):
    """The test binaries with all mutants that can be in them, and how many functions have some."""
    while True:
        functions = planted.plant()
        errors = cargo(planted.folder, "check", "--lib")[1]
        if not errors:
            binaries, errors = build(planted.folder, tests)
        if not errors:
            return binaries, functions
        say(f"{len(errors)} errors of the compiler: their mutants are left out")
        if not any([planted.leave_out(error) for error in errors]):
            sys.exit("error: it does not compile:\n" + "".join(error["rendered"] for error in errors))


def tests_of(folder, binaries):
    for binary in binaries:
        listed = subprocess.run([binary, "--list", "--format=terse"], cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout
        yield from (Test(binary, line.removesuffix(": test")) for line in listed.splitlines() if line.endswith(": test"))


class Trial:
    def __init__(self, planted, tests, until):
        self.planted, self.tests, self.until = planted, tests, until
        self.last = defaultdict(lambda: None)  # by function: what noticed its last mutant

    def notices(self, mutant):
        """The test that fails with the mutant. None: there is none. False: the time is over."""
        function = self.planted.functions[mutant.number]
        candidates = sorted((test for test in self.tests if function in test.reached), key=lambda test: (test is not self.last[function], test.seconds))
        for test in candidates:
            if time.monotonic() > self.until:
                return False
            if not test.passes(self.planted.folder, ONEIP_MUTANT=str(mutant.number)):
                self.last[function] = test
                return test.name
        say(f"not noticed, with {len(candidates)} tests: {mutant}")
        return None


def notices_alone(planted, names, mutant, tests):
    """As `Trial.notices`, of one that has to be built for itself. "": it does not compile."""
    planted.plant_alone(mutant)
    binaries, errors = build(planted.folder, names)
    if errors:
        return ""
    seconds = {test.name: test.seconds for test in tests}
    for test in sorted(tests_of(planted.folder, binaries), key=lambda test: seconds.get(test.name, 0)):
        test.seconds = seconds.get(test.name, test.seconds)
        if not test.passes(planted.folder):
            return test.name
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, required=True)
    parser.add_argument("--folder", required=True, help="the package, a copy")
    parser.add_argument("--list", required=True, help="of cargo mutants")
    parser.add_argument("--again", action="store_true", help="only what was not noticed the last time")
    parser.add_argument("--alone", action="store_true", help="one by one, what cannot be in one build with others")
    parser.add_argument("--results", required=True, help="a file")
    parser.add_argument("tests", nargs="+")
    arguments = parser.parse_args()
    until = time.monotonic() + 60 * arguments.minutes
    results = Path(arguments.results)

    mutants = plant.read(arguments.list)
    if arguments.again:
        left = {line.split("\t")[1] for line in results.read_text().splitlines() if line.startswith("not noticed")}
        mutants = [mutant for mutant in mutants if mutant.known_as in left]
    planted = plant.Planted(Path(__file__).parents[2], arguments.folder, mutants)
    binaries, functions = build_planted(planted, arguments.tests)
    tests = list(tests_of(planted.folder, binaries))
    say(f"{len(planted.functions)} mutants of {functions} functions are built; {len(tests)} tests")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        # A second time, alone: what fails then means nothing.
        failed = [test for test, passed in zip(tests, pool.map(lambda test: test.measure(planted.folder, functions), tests)) if not passed]
        failed = [test.name for test in failed if not test.measure(planted.folder, functions)]
        if failed:
            sys.exit(f"error: without a mutant these tests fail in {planted.folder}: {' '.join(failed)}")
        say(f"without a mutant the tests take {sum(test.seconds for test in tests):.0f} s")
        slowest = sorted(tests, key=lambda test: -test.seconds)[:5]
        say("the slowest: " + ", ".join(f"{test.name} {test.seconds:.1f} s" for test in slowest))
        trial = Trial(planted, tests, until)
        there = [mutant for mutant in mutants if mutant.number in planted.functions]
        found = dict(zip(there, pool.map(trial.notices, there)))
    for mutant in mutants:
        if mutant.number in planted.alone:
            found[mutant] = notices_alone(planted, arguments.tests, mutant, tests) if arguments.alone and time.monotonic() < until else False
    said = {None: "not noticed", False: "not tried", "": "does not compile"}
    with results.open("w") as file:
        for mutant in mutants:
            test = found.get(mutant, "")
            print(said.get(test, "noticed"), mutant.known_as, mutant, test or "", sep="\t", file=file)


if __name__ == "__main__":
    main()
