"""Print which tests of JUnit reports failed, each with the command that runs it alone; exit code 1 where any did."""

import argparse
import shlex
import sys
from pathlib import Path
from xml.etree import ElementTree


def node_id(case: ElementTree.Element) -> str:
    """`tests/test_x.py::test_y[z]` of a case; a file that was not collected is its own case."""
    module, name = case.get("classname", ""), case.get("name", "")
    if not module:
        return name.replace(".", "/") + ".py"
    parts = module.split(".")
    last = next(
        (end for end in range(len(parts), 0, -1) if Path(*parts[:end]).with_suffix(".py").is_file()), len(parts)
    )
    return "::".join([Path(*parts[:last]).with_suffix(".py").as_posix(), *parts[last:], name])


def failed_tests(report: Path) -> list[str]:
    """Of one report, in its order. ValueError where there is none: the tests did not run to their end."""
    if not report.is_file():
        raise ValueError(f"no report of the {report.stem} tests: they did not run to their end (see above)")
    cases = ElementTree.parse(report).iter("testcase")
    return list(dict.fromkeys(node_id(each) for each in cases if each.find("failure") is not None or _broken(each)))


def _broken(case: ElementTree.Element) -> bool:
    return case.find("error") is not None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pytest", default="pytest")
    parser.add_argument("reports", nargs="+", type=Path)
    options = parser.parse_args(arguments)
    lines = []
    for report in options.reports:
        try:
            lines += [f"failed ({report.stem}): {options.pytest} {shlex.quote(each)}" for each in failed_tests(report)]
        except ValueError as error:
            lines.append(str(error))
    print("\n".join(lines) or "all tests passed")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
