"""Tables of HTML, as pandas writes them, read back."""

from bs4 import BeautifulSoup


def table_of(html: str) -> tuple[list[str], list[list[str]], int]:
    """Head, rows, and how many columns hold labels, of the first table.

    A cell that spans others is repeated in each of them; lines of heads become one.
    """
    found: dict[tuple[int, int], str] = {}
    table = BeautifulSoup(html, "html.parser").select("table")[0]
    lines = table.find_all("tr")
    for line, row in enumerate(lines):
        column = 0
        for cell in row.find_all(["th", "td"]):
            while (line, column) in found:  # of a cell above that spans rows
                column += 1
            across, down = (int(str(cell.get(side) or 1)) for side in ("colspan", "rowspan"))
            covered = [(line + y, column + x) for y in range(down) for x in range(across)]
            found |= dict.fromkeys(covered, " ".join(cell.get_text().split()))
    columns = range(1 + max(column for _, column in found))
    rows = [[found.get((line, column), "") for column in columns] for line in range(len(lines))]
    heads = len(table.select("thead tr"))
    head = [" ".join(dict.fromkeys(filter(None, parts))) for parts in zip(*rows[:heads])]
    labels = max((len(row.find_all("th")) for row in lines[heads:]), default=0)
    return head, rows[heads:], labels
