"""The arguments of the convolutions for a problem of cases.py: its activations become images."""

import torch


def _images(p):
    """(x, dy, size of x, window): the weight's columns as channels and taps; values of x and dy, scaled from pixel to pixel."""
    kernel = next(k for k in ((3, 1), (1, 2), (1, 1)) if p.shape.cols % (k[0] * k[1]) == 0)
    window = (kernel, (1, 2), (1, 0), (1, 1), 1)
    size = (4, 3)
    out = (size[0] + 2 - kernel[0] + 1, (size[1] - kernel[1]) // 2 + 1)

    def images(tokens, planes, height, width):
        scale = (torch.arange(height * width, device=tokens.device) % 5 - 2).view(height, width).to(tokens.dtype) / 2
        return tokens[:, :planes, None, None] * scale

    channels = p.shape.cols // (kernel[0] * kernel[1])
    return images(p.x, channels, *size), images(p.dy, p.shape.rows, *out), size, window


def _conv2d_arguments(p):
    x, _, _, window = _images(p)
    index = (p.pattern.row_ptr, p.operands.col_idx)
    return [(p.weight, *index, p.shape.cols, x, bias, *window, *relu) for bias, *relu in ((None,), (p.bias,), (p.bias, True))]


def _conv2d_t_arguments(p):
    _, dy, size, window = _images(p)
    return [(p.weight, p.pattern.row_ptr, p.operands.col_idx, *p.operands[2:], dy, size, *window)]


def _conv2d_grad_weight_arguments(p):
    x, dy, _, window = _images(p)
    return [(p.pattern.row_ptr, p.operands.col_idx, p.shape.cols, dy, x, *window)]


ARGUMENTS = {
    f"{stem}_{name}": arguments
    for stem in ("csr", "auto")
    for name, arguments in (
        ("conv2d", _conv2d_arguments),
        ("conv2d_t", _conv2d_t_arguments),
        ("conv2d_grad_weight", _conv2d_grad_weight_arguments),
    )
}
