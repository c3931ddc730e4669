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
    "tabs and decimal commas": "file\tacc\topt\na.pt\t0,5\tsgd\nb.pt\t1\tadam\n",
    "quotes": '"file","acc","opt"\n"a.pt","0.5","sgd"\n"b.pt","1","adam"\n',
    "numbers of rows, as pandas writes them": ",file,acc,opt\n0,a.pt,0.5,sgd\n1,b.pt,1,adam\n",
    "the same read and written again": "Unnamed: 0,file,acc,opt\n0,a.pt,.5,sgd\n1,b.pt,1,adam\n",
    "empty cells of Excel": "file,acc,opt,\na.pt,0.5,sgd,\n,,,\nb.pt,1,adam,\n,,,\n",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", TEXTS)
def test_one_table_is_read_from_every_form(tmp_path, name, encoding):
    file = tmp_path / "a.csv"
    file.write_bytes(TEXTS[name].encode(encoding))
    found = read_csv_table(file).to_dict("list")
    assert found == {"file": ["a.pt", "b.pt"], "acc": [0.5, 1.0], "opt": ["sgd", "adam"]}


def test_separators_in_a_quoted_name_do_not_count(tmp_path):
    (tmp_path / "a.csv").write_text('file;"a,b,c,d";acc\na.pt;1;0,5\n')
    found = read_csv_table(tmp_path / "a.csv").to_dict("list")
    assert found == {"file": ["a.pt"], "a,b,c,d": [1], "acc": [0.5]}


def test_columns_of_text_stay_as_they_are_written(tmp_path):
    (tmp_path / "a.csv").write_text("Family,acc\n01,1\n1,0.5\n,0\n")
    found = read_csv_table(tmp_path / "a.csv", text_in=["family"])
    assert found["Family"].tolist() == ["01", "1", ""]


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
        (b"", "a.csv: it is empty"),
        (b"  \n\n", "a.csv: it is empty"),
        (b"file,acc\na,1\nb,1,2,3\n", "whose rows have the cells of its header"),
        (b"file,acc\n\xff\xff\xfa,1\n", "is no CSV file, in UTF-8"),
    ],
)
def test_what_is_no_table_is_one_sentence(tmp_path, content, sentence):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(GengapError, match=sentence):
        read_csv_table(tmp_path / "a.csv")
