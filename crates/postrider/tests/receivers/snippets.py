"""Runs every function of docs/receivers.md, in its language, against requests whose verdict is known.

    python3 snippets.py cases.json [--languages node,python] [--doc FILE]

A case is {"profile", "name", "source", "secret", "headers", "body_base64", "valid"}. Where the profile has a
time window, "now" is the receiver's time in seconds; without it the clock counts. Every language must have a snippet for every profile, every profile cases that
are valid and cases that are not, and every verdict must be the case's. Needs Python 3.11 and the languages.
"""

import argparse
import base64
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

DOC = pathlib.Path(__file__).resolve().parents[4] / "docs" / "receivers.md"
PROFILES = ["standard", "standard-ed25519", "vignetim", "simplifytrip", "voucherify", "stripe", "github"]
# Their functions take the time as a last argument.
WITH_WINDOW = {"standard", "standard-ed25519", "simplifytrip", "stripe"}
# What a code block is marked as in the page, by language.
TAGS = {"node": "js", "python": "python", "go": "go", "java": "java", "php": "php", "ruby": "ruby"}
# The commands of a language, and the Debian package that has them.
NEEDS = {
    "node": (["node"], "nodejs"),
    "python": ([sys.executable], "python3"),
    "go": (["go"], "golang-go"),
    "java": (["java", "javac"], "default-jdk-headless"),
    "php": (["php"], "php-cli"),
    "ruby": (["ruby"], "ruby"),
}
# A snippet that takes longer hangs. Building the first Go program of a machine takes longest.
TIMEOUT_SECS = 300
# What a receiver may take at most while it looks at what a stranger sent. Node and Java have bounds of their own, and take
# room for much more than they use.
ADDRESSES_BYTES_MAX = 4 * 1024 * 1024 * 1024
# Wrong verdicts of one snippet that are told; what more there are is only counted.
SHOWN = 5



def hostile():
    """Bodies that cost whoever looks at all of them more than they cost to send, by name."""
    sent = '"sentDate":"2026-01-01T00:00:00Z"'
    name = "a" * 100_000
    return {
        "a long name over a long list": f'{{{sent},"{name}":[{",".join("0" * 60_000)}]}}',
        "a long name over lists with nothing in them": f'{{{sent},"{name}":[{",".join(["[]"] * 50_000)}]}}',
        "a text of escapes that never ends": '"' + '\\"' * 400_000,
    }


class Failure(Exception):
    """A sentence for the person who runs this."""


# Each driver reads the cases from standard input and prints a line for each: true, false, or what was
# raised. VERIFY is the function and WINDOW the further argument.

NODE = """
const cases = JSON.parse((await import("node:fs")).readFileSync(0, "utf8"));
for (const one of cases) {
  const now = one.now; // the function's own clock, where there is none
  let line;
  try {
    line = String(VERIFY(one.secret, one.headers, Buffer.from(one.body_base64, "base64")WINDOW));
  } catch (error) {
    line = `raised ${error}`;
  }
  console.log(line.replaceAll("\\n", " "));
}
"""

PYTHON = """
import base64 as _base64
import json as _json
import sys as _sys

for _case in _json.load(_sys.stdin):
    now = _case.get("now")
    try:
        _verdict = VERIFY(_case["secret"], _case["headers"], _base64.b64decode(_case["body_base64"])WINDOW)
        _line = {True: "true", False: "false"}.get(_verdict, f"returned {_verdict!r}")
    except BaseException as _error:
        _line = f"raised {_error!r}"
    print(_line.replace("\\n", " "))
"""

GO = """
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

type oneCase struct {
	Secret  string            `json:"secret"`
	Headers map[string]string `json:"headers"`
	Body    []byte            `json:"body_base64"`
	Now     int64             `json:"now"`
}

func verdict(one oneCase) (line string) {
	defer func() {
		if what := recover(); what != nil {
			line = fmt.Sprintf("raised %q", fmt.Sprint(what))
		}
	}()
	now := one.Now
	if now == 0 {
		now = time.Now().Unix()
	}
	return fmt.Sprint(VERIFY(one.Secret, one.Headers, one.BodyWINDOW))
}

func main() {
	var cases []oneCase
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		panic(err)
	}
	for _, one := range cases {
		fmt.Println(verdict(one))
	}
}
"""

# A line for each case, as Java's standard library reads no JSON: fields with a space between them, each in
# base64: secret, body, time, then names and values of headers in turn.
JAVA = """
final class Driver {
    static String text(String field) {
        return new String(java.util.Base64.getDecoder().decode(field), java.nio.charset.StandardCharsets.UTF_8);
    }

    public static void main(String[] arguments) throws java.io.IOException {
        var lines = new java.io.BufferedReader(new java.io.InputStreamReader(System.in));
        String line;
        while ((line = lines.readLine()) != null) {
            String[] fields = line.split(" ", -1);
            byte[] body = java.util.Base64.getDecoder().decode(fields[1]);
            long now = fields[2].isEmpty() ? System.currentTimeMillis() / 1000 : Long.parseLong(text(fields[2]));
            var headers = new java.util.HashMap<String, String>();
            for (int at = 3; at + 1 < fields.length; at += 2) {
                headers.put(text(fields[at]), text(fields[at + 1]));
            }
            String verdict;
            try {
                verdict = String.valueOf(Snippet.VERIFY(text(fields[0]), headers, bodyWINDOW));
            } catch (Throwable error) {
                verdict = "raised " + error;
            }
            System.out.println(verdict.replace("\\n", " "));
        }
    }
}
"""

PHP = """
set_error_handler(function ($level, $message) {
    throw new ErrorException($message);
});
foreach (json_decode(stream_get_contents(STDIN), true) as $case) {
    $now = $case['now'] ?? null;
    try {
        $line = var_export(VERIFY($case['secret'], $case['headers'], base64_decode($case['body_base64'])WINDOW), true);
    } catch (Throwable $error) {
        $line = 'raised ' . $error->getMessage();
    }
    echo str_replace("\\n", ' ', $line), "\\n";
}
"""

RUBY = """
require "json"

JSON.parse($stdin.read).each do |one|
  now = [one["now"]].compact
  line = begin
    VERIFY(one["secret"], one["headers"], one["body_base64"].unpack1("m0")WINDOW).inspect
  rescue Exception => error
    "raised #{error.inspect}"
  end
  puts line.tr("\\n", " ")
end
"""


def snippets_of(page):
    """The snippets by (language, profile). A block in one of the languages without its marker is a mistake."""
    found = {}
    marker, block = None, None
    for number, line in enumerate(page.splitlines(), 1):
        if block is not None:
            if line.startswith("```"):
                if marker:
                    found[marker] = "\n".join(block) + "\n"
                marker, block = None, None
            else:
                block.append(line)
        elif line.startswith("```"):
            tag = line[3:].strip()
            if marker and tag != TAGS[marker[0]]:
                raise Failure(f"Line {number} begins a block of {tag or 'nothing'}, but its marker says {marker[0]}.")
            if not marker and tag in TAGS.values():
                raise Failure(f"The {tag} block in line {number} has no line `<!-- run: … -->` before it, so it is not tested.")
            block = []
        elif "<!-- run:" in line:
            match = re.fullmatch(r"<!-- run: (\S+) (\S+) -->", line.strip())
            if not match or match[1] not in TAGS or match[2] not in PROFILES:
                raise Failure(f"Line {number} names no language and profile that this script knows: {line.strip()}")
            if match.groups() in found:
                raise Failure(f"Line {number} is a second snippet for {match[1]} {match[2]}.")
            marker = match.groups()
        elif marker:
            raise Failure(f"After the marker for {' '.join(marker)} a code block must begin in line {number}.")
    return found


def cases_of(path):
    """The cases by profile."""
    try:
        cases = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Failure(f"The cases in {path} cannot be read: {error}.") from error
    if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
        raise Failure(f"The cases in {path} are not a list of objects.")
    by_profile = {profile: [] for profile in PROFILES}
    for number, case in enumerate(cases, 1):
        name = case.get("name", f"number {number}")
        if case.get("profile") not in by_profile:
            raise Failure(f"The case “{name}” has a profile that this script does not know: {case.get('profile')}.")
        if lacking := {"secret", "headers", "body_base64", "valid"} - case.keys():
            raise Failure(f"The case “{name}” of {case['profile']} lacks {', '.join(sorted(lacking))}.")
        if any(header != header.lower() for header in case["headers"]):
            raise Failure(f"The case “{name}” of {case['profile']} has a header name that is not lower-case.")
        if "now" in case and case["profile"] not in WITH_WINDOW:
            raise Failure(f"The case “{name}” has a “now”, but {case['profile']} has no time window.")
        by_profile[case["profile"]].append({**case, "name": name})
    for profile, some in by_profile.items():
        like = next(case for case in some if not case["valid"])
        for name, body in hostile().items():
            some.append({**like, "name": name, "body_base64": encode(body)})
        for verdict in (True, False):
            if not any(case["valid"] is verdict for case in some):
                raise Failure(f"There is no case of {profile} that is {'valid' if verdict else 'not valid'}.")
    return by_profile


def check_languages(languages):
    for language in languages:
        commands, package = NEEDS[language]
        for command in commands:
            if shutil.which(command) is None:
                raise Failure(
                    f"{language} cannot run, because {command} is not on this machine: install {package},"
                    " or leave the language out with --languages."
                )
    if "python" in languages:
        probe = subprocess.run([sys.executable, "-c", "import cryptography"], capture_output=True)
        if probe.returncode != 0:
            raise Failure(
                f"Ed25519 in Python needs the package cryptography, and {sys.executable} has it not:"
                " install python3-cryptography, or leave python out with --languages."
            )


def fill(driver, profile):
    function = "verify_" + profile.replace("-", "_")
    window = {PHP: ", $now", RUBY: ", *now"}.get(driver, ", now")
    return driver.replace("VERIFY", function).replace("WINDOW", window if profile in WITH_WINDOW else "")


def encode(text):
    return base64.b64encode(text.encode()).decode()


def java_input(cases):
    lines = []
    for case in cases:
        fields = [encode(case["secret"]), case["body_base64"], encode(str(case.get("now", "")))]
        for name, value in case["headers"].items():
            fields += [encode(name), encode(value)]
        lines.append(" ".join(fields) + "\n")
    return "".join(lines)


def write(directory, name, text):
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def run_command(what, arguments, directory, text="", bounded=False):
    env = os.environ | {"GO111MODULE": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "", "LC_ALL": "C.UTF-8"}
    if not env.keys() & {"HOME", "XDG_CACHE_HOME", "GOCACHE"}:
        # Go wants a place for what it has built.
        env["GOCACHE"] = str(pathlib.Path(tempfile.gettempdir()) / "postrider-snippets-go")
    if bounded:
        arguments = ["prlimit", f"--as={ADDRESSES_BYTES_MAX}", *arguments]
    try:
        done = subprocess.run(
            arguments, cwd=directory, input=text, capture_output=True, encoding="utf-8", timeout=TIMEOUT_SECS, env=env
        )
    except subprocess.TimeoutExpired as error:
        raise Failure(f"{what} did not end within {TIMEOUT_SECS} s.") from error
    if done.returncode != 0:
        raise Failure(f"{what} ended with {done.returncode}:\n{(done.stderr or done.stdout).strip()}")
    return done.stdout


def output_of(language, profile, snippet, cases, directory):
    """What the driver around the snippet prints."""
    what = f"The {language} snippet of {profile}"
    text = json.dumps(cases)
    if language == "node":
        path = write(directory, "snippet.mjs", snippet + fill(NODE, profile))
        return run_command(what, ["node", path], directory, text)
    if language == "python":
        path = write(directory, "snippet.py", snippet + fill(PYTHON, profile))
        return run_command(what, [sys.executable, path], directory, text, bounded=True)
    if language == "php":
        path = write(directory, "snippet.php", "<?php\n" + snippet + fill(PHP, profile))
        return run_command(what, ["php", "-d", "display_errors=stderr", path], directory, text, bounded=True)
    if language == "ruby":
        path = write(directory, "snippet.rb", snippet + fill(RUBY, profile))
        return run_command(what, ["ruby", path], directory, text, bounded=True)
    if language == "go":
        paths = [
            write(directory, "snippet.go", "package main\n\n" + snippet),
            write(directory, "driver.go", fill(GO, profile)),
        ]
        program = str(directory / "snippet")
        run_command(f"Building the go snippet of {profile}", ["go", "build", "-o", program, *paths], directory)
        return run_command(what, [program], directory, text, bounded=True)
    lines = snippet.splitlines(keepends=True)
    imports = [line for line in lines if line.startswith("import ")]
    rest = [line for line in lines if not line.startswith("import ")]
    paths = [
        write(directory, "Snippet.java", "".join(imports) + "final class Snippet {\n" + "".join(rest) + "}\n"),
        write(directory, "Driver.java", fill(JAVA, profile)),
    ]
    javac = ["javac", "-encoding", "UTF-8", "-d", str(directory), *paths]
    run_command(f"Building the java snippet of {profile}", javac, directory)
    return run_command(what, ["java", "-cp", str(directory), "Driver"], directory, java_input(cases))


def check(language, profile, snippet, cases):
    """The sentences about what went wrong."""
    with tempfile.TemporaryDirectory(prefix="postrider-snippet-") as directory:
        try:
            output = output_of(language, profile, snippet, cases, pathlib.Path(directory))
        except Failure as failure:
            return [str(failure)]
    verdicts = output.splitlines()
    if len(verdicts) != len(cases):
        return [f"The {language} snippet of {profile} gave {len(verdicts)} verdicts for {len(cases)} cases."]
    wrong = [
        f"The {language} snippet of {profile} says {verdict} where {str(case['valid']).lower()} is right: {case['name']}."
        for case, verdict in zip(cases, verdicts)
        if verdict != str(case["valid"]).lower()
    ]
    if len(wrong) > SHOWN:
        wrong[SHOWN:] = [f"The {language} snippet of {profile} is wrong in {len(wrong) - SHOWN} cases more."]
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", help="JSON file of cases")
    parser.add_argument("--languages", help="only these, comma-separated")
    parser.add_argument("--doc", default=DOC, help="the page, docs/receivers.md by default")
    arguments = parser.parse_args()
    languages = arguments.languages.split(",") if arguments.languages else list(TAGS)
    if unknown := [language for language in languages if language not in TAGS]:
        raise Failure(f"There are no snippets in {', '.join(unknown)}; there are in {', '.join(TAGS)}.")
    try:
        page = pathlib.Path(arguments.doc).read_text(encoding="utf-8")
    except OSError as error:
        raise Failure(f"The page {arguments.doc} cannot be read: {error}.") from error
    snippets = snippets_of(page)
    missing = [f"{language} {profile}" for language in TAGS for profile in PROFILES if (language, profile) not in snippets]
    if missing:
        raise Failure(f"{arguments.doc} has no snippet for {', '.join(missing)}.")
    cases = cases_of(arguments.cases)
    check_languages(languages)

    pairs = [(language, profile) for language in languages for profile in PROFILES]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = [pool.submit(check, *pair, snippets[pair], cases[pair[1]]) for pair in pairs]
        wrong = [sentence for run in runs for sentence in run.result()]
    if wrong:
        raise Failure("\n".join(wrong))
    ran = sum(len(cases[profile]) for _, profile in pairs)
    distinct = sum(map(len, cases.values()))
    print(f"{len(pairs)} snippets in {', '.join(languages)} gave the right verdict on {distinct} cases, {ran} runs.")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(str(failure))
