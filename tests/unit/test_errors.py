import inspect
import re

from tf_backup import errors


def classes() -> dict[str, type]:
    return dict(inspect.getmembers(errors, inspect.isclass))


def test_tree_in_the_docstring_is_the_tree():
    path: list[tuple[int, str]] = [(-1, "Exception")]
    drawn = {}
    for indent, name in re.findall(r"^    ([|` -]*)([A-Z]\w+)", errors.__doc__ or "", re.MULTILINE):
        while path[-1][0] >= len(indent):
            path.pop()
        drawn[name] = path[-1][1]
        path.append((len(indent), name))
    assert drawn.pop("ValueError") == "Exception"
    assert drawn == {name: each.__base__.__name__ for name, each in classes().items()}


def test_one_except_catches_them_all_and_no_bad_argument():
    for each in {*classes().values()} - {errors.RecordsError}:
        assert issubclass(each, errors.TfBackupError)
        assert not issubclass(each, (ValueError, TypeError))
