"""The results of evaluation.json as Markdown tables, for a model's card."""


def table(head, rows):
    lines = [head, ["---"] * len(head)] + rows
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in lines) + "\n"


def text_table(text):
    rows = [[f"`{book}`", part["window"], part["tokens"], f"{part['nll_per_token']:.4f}",
             f"{part['bits_per_byte']:.4f}"] for book, parts in text.items() for part in parts]
    return table(["held-out book", "window", "tokens", "NLL per token", "bits per byte"], rows)


def recall_table(recall, chains):
    lengths = list(next(iter(recall.values())))
    rows = [[*name.replace("_", " ").rsplit(" ", 1)] + [f"{found[n]['right']} / {found[n]['of']}"
                                                        for n in lengths]
            for name, found in recall.items()]
    result = table(["wordings", "keys", *lengths], rows)
    cells = [f"{found['right']} / {found['of']}" for found in chains.values()]
    return result + "\n" + table(["steps of \"the same as\"", *chains], [["right", *cells]])


def attention_table(attention):
    """Shares of attention per layer; the mean over the heads and, after the slash, the largest."""
    columns = [("book", "far"), ("book", "bos"), ("answers", "far"), ("questions", "stated"),
               ("answers", "stated")]

    def cell(place, region, layer):
        figures = attention[place][region]
        return f"{figures['mean'][layer]:.2f} / {figures['largest_head'][layer]:.2f}"

    layers = range(len(attention["book"]["far"]["mean"]))
    return table(["layer"] + [f"{place}: {region}" for place, region in columns],
                 [[layer] + [cell(*column, layer) for column in columns] for layer in layers])


def all_tables(result):
    return "\n".join([text_table(result["text"]), recall_table(result["recall"], result["chains"]),
                      attention_table(result["attention"])])
