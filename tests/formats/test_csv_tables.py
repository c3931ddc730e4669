"""Tables as people write them."""

import pytest

from gengap import GengapError
from gengap.formats.csv_tables import read_csv_table

TEXTS = {
    "commas": "file,acc,opt\na.pt,0.5,sgd\nb.pt,1,adam\n",
    "semicolons and decimal commas": "file;acc;opt\na.pt;0,5;sgd\nb.pt;1;adam\n",
    "tabs": "file\tacc\topt\na.pt\t0.5\tsgd\nb.pt\t1\tadam\n",
    "spaces": " file , acc, opt\na.pt , 0.5, sgd\n b.pt,1 ,adam\n",
    "lines of Windows": "file,acc,opt\r\na.pt,0.5,sgd\r\nb.pt,1,adam\r\n",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", TEXTS)
def test_one_table_is_read_from_every_form(tmp_path, name, encoding):
    file = tmp_path / "a.csv"
    file.write_bytes(TEXTS[name].encode(encoding))
    found = read_csv_table(file).to_dict("list")
    assert found == {"file": ["a.pt", "b.pt"], "acc": [0.5, 1.0], "opt": ["sgd", "adam"]}


def test_a_comma_in_a_text_stays_and_words_are_no_gaps(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("file;opt;deep\na,1.pt;None;true\nb.pt;;False\n")
    found = read_csv_table(file)
    assert found["file"].tolist() == ["a,1.pt", "b.pt"]
    assert found["opt"].iloc[0] == "None" and found["opt"].isna().iloc[1]
    assert found["deep"].tolist() == [True, False]


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"file,acc\n", "no row below it"),
        (b"file,acc,acc\na,1,2\n", "the column 'acc' twice"),
        (b"", "is no CSV file"),
        (b"file,acc\na,1\nb,1,2,3\n", "is no CSV file"),
        (b"file,acc\n\xff\xff\xfa,1\n", "no CSV file in UTF-8"),
    ],
)
def test_what_is_no_table_is_one_sentence(tmp_path, content, sentence):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(GengapError, match=sentence):
        read_csv_table(tmp_path / "a.csv")
