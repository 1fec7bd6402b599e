"""Two figures as SVG: the course of training, and the attention of the layers."""

WIDTH, HEIGHT, LEFT, TOP, INNER_WIDTH, INNER_HEIGHT = 720, 300, 56, 34, 600, 210
COLOURS = ("#1b6ca8", "#d1495b", "#66a182", "#8d6a9f", "#c98b1b")


def svg(title, body):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'font-family="sans-serif" font-size="11">\n<rect width="{WIDTH}" height="{HEIGHT}" '
            f'fill="white"/>\n{text(LEFT, 18, title, size=13)}\n' + "\n".join(body) + "\n</svg>\n")


def text(x, y, content, anchor="start", size=11, colour="#333"):
    return (f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-size="{size}" '
            f'fill="{colour}">{content}</text>')


def line(x1, y1, x2, y2, colour="#ccc"):
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
            f'stroke="{colour}"/>')


def axis(low, high, steps, x, anchor, form):
    """Marks of a vertical axis, with faint lines across."""
    marks = []
    for i in range(steps + 1):
        y = TOP + INNER_HEIGHT * (1 - i / steps)
        marks.append(text(x, y + 4, form(low + (high - low) * i / steps), anchor))
        marks.append(line(LEFT, y, LEFT + INNER_WIDTH, y, "#eee"))
    return marks


def curve(points, colour):
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'


def training_curve(records):
    """Bits per byte of held-out text, and recall, over the tokens seen.

    records: the lines of log.jsonl that are evaluations.
    """
    last = max(record["tokens"] for record in records)
    bits = [record["bits_per_byte"] for record in records]
    low, high = int(min(bits) * 10) / 10, min(3.0, int(max(bits) * 10 + 1) / 10)
    body = axis(low, high, 5, LEFT - 6, "end", lambda v: f"{v:.2f}")
    body += [text(LEFT + INNER_WIDTH + 6, TOP + INNER_HEIGHT * (1 - i / 4) + 4, f"{25 * i} %")
             for i in range(5)]

    def place(record, share):
        share = max(0.0, min(1.0, share))
        return (LEFT + INNER_WIDTH * record["tokens"] / last, TOP + INNER_HEIGHT * (1 - share))

    body.append(curve([place(r, (r["bits_per_byte"] - low) / (high - low)) for r in records],
                      COLOURS[0]))
    names = sorted({key for r in records for key in r if key.startswith("recall_")})
    for name, colour in zip(names, COLOURS[1:]):
        body.append(curve([place(r, r[name]) for r in records if name in r], colour))
    labels = ["bits per byte (left)"] + [n.replace("_", " ") for n in names]
    x = LEFT
    for label, colour in zip(labels, COLOURS):
        body.append(text(x, HEIGHT - 10, label, colour=colour))
        x += 6.5 * len(label) + 14
    for i in range(6):
        body.append(text(LEFT + INNER_WIDTH * i / 5, TOP + INNER_HEIGHT + 16,
                         f"{last * i / 5 / 1e6:.1f} M", "middle"))
    return svg("Held-out text and recall over the tokens seen", body)


def attention_bars(attention):
    """Per layer, mass of the head that looks most at the asked sentence, and of all that is far."""
    series = [("answers: asked sentence, largest head",
               attention["answers"]["stated"]["largest_head"]),
              ("questions: the same", attention["questions"]["stated"]["largest_head"]),
              ("book: far, mean of heads", attention["book"]["far"]["mean"])]
    layers = len(series[0][1])
    body = axis(0, 1, 4, LEFT - 6, "end", lambda v: f"{v:.2f}")
    step, bar = INNER_WIDTH / layers, INNER_WIDTH / layers / 4
    for s, (name, values) in enumerate(series):
        for layer, value in enumerate(values):
            height = INNER_HEIGHT * value
            body.append(f'<rect x="{LEFT + step * layer + bar * (s + 0.5):.1f}" '
                        f'y="{TOP + INNER_HEIGHT - height:.1f}" width="{bar:.1f}" '
                        f'height="{height:.1f}" fill="{COLOURS[s]}"/>')
        body.append(text(LEFT + 225 * s, HEIGHT - 10, name, colour=COLOURS[s]))
    body += [text(LEFT + step * (layer + 0.5), TOP + INNER_HEIGHT + 16, layer, "middle")
             for layer in range(layers)]
    return svg(f"Attention mass by layer, {attention['length']} tokens "
               f"(far: more than {attention['far_means_tokens']} back)", body)
