"""Which images are packed, with which classes; and what is refused, by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.commands.class_flags import read_class_list
from pipeline.errors import UserError
from pipeline.packing.sources import Sources, from_folders
from pipeline.packing.table import from_table


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def rows(sources: Sources) -> list[tuple[str, int]]:
    for source in sources.images:
        assert Path(source.path).is_file()
    return [(source.key, source.label) for source in sources.images]


def test_sorted_folders_are_the_classes(tmp_path: Path) -> None:
    root = touch(
        tmp_path, "dog/1.jpg", "cat/deep/er/2.PNG", "cat/1.webp", "Bee/x.jpeg", "cat/.hidden.jpg", ".cache/y.jpg"
    )
    sources = from_folders(root, (), None)
    assert sources.class_names == ("Bee", "cat", "dog")
    assert rows(sources) == [("Bee/x", 0), ("cat/1", 1), ("cat/deep/er/2", 1), ("dog/1", 2)]


def test_a_list_fixes_the_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = touch(tmp_path / "in", "dog/1.jpg", "cat/1.jpg")
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["dog", "emu", "cat"]}))
    (tmp_path / "classes.txt").write_text("dog\n\nemu\r\ncat\n")
    for name in ("classes.json", "classes.txt"):
        names = read_class_list(tmp_path / name)
        assert rows(from_folders(root, (), names)) == [("cat/1", 2), ("dog/1", 0)]
    assert caplog.messages == ["1 classes of --classes have no folder: emu"] * 2


def test_folders_without_classes(tmp_path: Path) -> None:
    root = touch(tmp_path / "in", "cat/1.jpg", "more/deep/2.jpg")
    other = touch(tmp_path / "other", "3.jpg")
    sources = from_folders(root, (root / "more", other), None)
    assert sources.class_names == ("cat",)
    assert rows(sources) == [("cat/1", 0), ("more/deep/2", -1), ("other/3", -1)]
    assert rows(from_folders(None, (other,), None)) == [("other/3", -1)]
    assert from_folders(None, (other,), None).class_names is None


def test_keys_that_meet_are_kept_apart(tmp_path: Path) -> None:
    root = touch(tmp_path / "in", "cat/1.jpg", "cat/1.png", "cat/2.jpg")
    keys = [key for key, _ in rows(from_folders(root, (), None))]
    assert len(set(keys)) == 3
    assert "cat/2" in keys
    assert all(key.startswith("cat/1-") for key in keys if key != "cat/2")


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    root = touch(tmp_path / "in", "cat/1.jpg")
    touch(tmp_path / "far", "2.jpg")
    (root / "cat" / "far").symlink_to(tmp_path / "far")
    assert rows(from_folders(root, (), None)) == [("cat/1", 0), ("cat/far/2", 0)]
    (tmp_path / "far" / "back").symlink_to(root / "cat")
    with pytest.raises(UserError, match=r"in/cat/far/back links to a folder that it lies in. Remove the link\."):
        from_folders(root, (), None)


def test_files_that_are_no_images_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = touch(tmp_path, "cat/1.jpg", "cat/notes.txt", "cat/Thumbs.db")
    assert len(from_folders(root, (), None).images) == 1
    assert caplog.messages == [f"{root}/cat: 2 files passed over: Thumbs.db, notes.txt"]


def test_numbers_as_folder_names_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = touch(tmp_path / "a", *(f"{number}/x.jpg" for number in range(11)))
    assert dict(rows(from_folders(root, (), None)))["10/x"] == 2
    assert caplog.messages == [
        "the class folders are numbers, but are numbered in the order of their names, as torchvision's ImageFolder "
        "does: folder 10 is class 2. --classes sets another order"
    ]
    caplog.clear()
    from_folders(touch(tmp_path / "b", "0/x.jpg", "1/x.jpg"), (), None)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("names", "unlabelled", "classes", "message"),
    [
        ((), (), None, "ROOT cannot be read: No such file or directory. Name a folder of images."),
        (("x.txt",), (), None,
         "ROOT holds no class folders. It must hold one folder per class, or be listed in a --csv."),
        (("a.jpg", "cat/b.jpg"), (), None,
         "ROOT holds 1 image outside any class folder: a.jpg. Move each into the folder of its class, name a folder "
         "without classes by --unlabelled, or list path,class in a --csv."),
        (("cat/a.jpg", "dog/x.txt", "emu/y.txt"), (), None,
         "ROOT: 2 class folders of 3 without an image: dog, emu. Remove what is no class, or put its images in."),
        (("cat/a.jpg", "dog/b.jpg"), (), ("cat", "emu"),
         "ROOT has 1 folder that --classes does not name: dog. Known are cat, emu."),
        (("cat/a.jpg", "more/b.txt"), ("more",), None,
         "ROOT/more holds no images. Name a folder of images by --unlabelled, or leave it out."),
        (("cat/a.jpg",), ("none",), None,
         "ROOT/none cannot be read: No such file or directory. Name a folder of images."),
        (("cat/a.jpg",), ("cat/a.jpg",), None, "ROOT/cat/a.jpg is a file. Name the folder that holds the images."),
        (("cat/a.jpg", "m/b.jpg"), ("m", "./m"), None, "--unlabelled names one folder twice. Name each folder once."),
    ],
)  # fmt: skip
def test_refuses_folders(
    tmp_path: Path, names: tuple[str, ...], unlabelled: tuple[str, ...], classes: tuple[str, ...] | None, message: str
) -> None:
    root = touch(tmp_path / "in", *names)
    with pytest.raises(UserError) as error:
        from_folders(root, tuple(root / name for name in unlabelled), classes)
    assert str(error.value) == message.replace("ROOT", str(root))


def table(folder: Path, text: str) -> Path:
    (folder / "list.csv").write_text(text, encoding="utf-8")
    return folder / "list.csv"


def test_a_table_of_names_and_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "x/1.jpg", "2.jpg", 'odd, "name".jpg')
    named = from_table(table(tmp_path, 'x/1.jpg,dog\n2.jpg, cat \n"odd, ""name"".jpg",\n'), None, None)
    assert named.class_names == ("cat", "dog")
    assert rows(named) == [("2", 0), (rows(named)[1][0], -1), ("x/1", 1)]


def test_a_table_with_a_header_in_another_order(tmp_path: Path) -> None:
    root = touch(tmp_path, "x/1.jpg", "2.jpg")
    found = from_table(table(tmp_path, "\ufeffClass,other,Path\n7,a,x/1.jpg\n,b,./x/../2.jpg\n"), root, None)
    assert (rows(found), found.class_names) == ([("2", -1), ("x/1", 7)], None)


def test_a_table_may_list_absolute_paths_and_given_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = touch(tmp_path / "in", "1.jpg", "2.jpg")
    monkeypatch.chdir(tmp_path)
    relative = from_table(table(tmp_path, f"{root}/1.jpg,1\n"), Path("in"), None)
    assert rows(relative) == [("1", 1)]
    found = from_table(table(tmp_path, f"{root}/1.jpg,emu\n{root}/2.jpg,0\n"), root, ("cat", "emu"))
    assert (rows(found), found.class_names) == ([("1", 1), ("2", 0)], ("cat", "emu"))


@pytest.mark.parametrize(
    ("text", "classes", "message"),
    [
        ("", None, "TABLE lists no images. It must have lines of path,class."),
        ("path,class\n", None, "TABLE lists no images. It must have lines of path,class."),
        ("1.jpg\n", None, "TABLE: line 1 has 1 fields instead of 2. It must have lines of path,class."),
        ("1.jpg,a,b\n", None, "TABLE: line 1 has 3 fields instead of 2. It must have lines of path,class."),
        ("path,class,x\n1.jpg,a\n", None, "TABLE: line 2 has 2 fields instead of 3. It must have lines of path,class."),
        ("1.jpg,cat\n1.jpg,cat\n", None, "TABLE: lines 1 and 2 both list 1.jpg. List each image once."),
        ("../1.jpg,cat\n", None,
         "TABLE: line 1 lists '../1.jpg', which is not below ROOT. Set --images to a folder above."),
        ("/etc/passwd,cat\n", None,
         "TABLE: line 1 lists '/etc/passwd', which is not below ROOT. Set --images to a folder above."),
        (",cat\n", None, "TABLE: line 1 lists '', which is not below ROOT. Set --images to a folder above."),
        ("1.jpg,cat\n2.jpg,3\n", None,
         "TABLE has the class 'cat' in line 1 and the class 3 in line 2. Use names or numbers, or say by --classes "
         "which names there are."),
        ("1.jpg,-2\n", None, "TABLE: line 1 has the class '-2'. Known are -1 to 1,048,575."),
        ("1.jpg,dog\n", ("cat", "emu"), "TABLE: line 1 has the class 'dog'. Known are cat, emu."),
        ("1.jpg,2\n", ("cat", "emu"), "TABLE: line 1 has the class '2'. Known are cat, emu."),
        ('1.jpg,"cat\n', None, "TABLE: line 1 is no CSV: unexpected end of data."),
    ],
)  # fmt: skip
def test_refuses_tables(tmp_path: Path, text: str, classes: tuple[str, ...] | None, message: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(UserError) as error:
        from_table(path, tmp_path, classes)
    assert str(error.value) == message.replace("TABLE", str(path)).replace("ROOT", str(tmp_path))


def test_refuses_lists_of_classes(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "twice.txt").write_text("a\nb\na\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    for name, message in {
        "empty.txt": "names no classes. Give a classes.json, or a text file with one name a line.",
        "twice.txt": ": the class 'a' is named twice. Name each class once.",
        "bytes.txt": "is not UTF-8 text.",
    }.items():
        with pytest.raises(UserError) as error:
            read_class_list(tmp_path / name)
        assert str(error.value) in (f"{tmp_path / name} {message}", f"{tmp_path / name}{message}")


def test_a_list_of_classes_that_is_not_there(tmp_path: Path) -> None:
    for name in ("none.json", "none.txt"):
        with pytest.raises(UserError, match=rf"--classes .*{name}: no such file"):
            read_class_list(tmp_path / name)


def test_a_lost_link_is_not_passed_over(tmp_path: Path) -> None:
    root = touch(tmp_path, "cat/1.jpg", "cat/2.JPG")
    (root / "cat" / "lost.jpg").symlink_to(tmp_path / "nowhere")
    names = [source.name for source in from_folders(root, (), None).images]
    assert names == ["cat/1.jpg", "cat/2.JPG", "cat/lost.jpg"]  # the check will say that it is lost


@pytest.mark.parametrize("above", ["", "data/"])
def test_the_folder_above_train_and_val_is_no_folder_of_classes(tmp_path: Path, above: str) -> None:
    root = touch(tmp_path, *(f"{above}{place}.jpg" for place in ("train/cat/1", "train/dog/2", "Val/cat/3", "test/4")))
    with pytest.raises(UserError) as refused:
        from_folders(root, (), None)
    assert str(refused.value) == (
        f"{root / above} holds Val, test, train, which divide data and are no classes; the classes seem to be the "
        f"folders in them (train has 2 folders: cat, dog). Pack each on its own: --images {root / above / 'train'}, "
        "then the others with --classes CLASSES, the classes.json that the first one wrote. If these are classes after "
        "all, name them by --classes."
    )
    if not above:
        assert len(from_folders(root, (), ("Val", "test", "train")).images) == 4
    assert len(from_folders(root / above / "train", (), None).images) == 2


def test_folders_that_are_only_called_like_splits(tmp_path: Path) -> None:
    """A train is a class beside a plane, and so it is where nothing lies in folders."""
    root = touch(tmp_path, "a/train/x/1.jpg", "a/plane/2.jpg", "b/train/1.jpg", "b/test/2.jpg")
    assert from_folders(root / "a", (), None).class_names == ("plane", "train")
    assert from_folders(root / "b", (), None).class_names == ("test", "train")
