// The sizes of a two-dimensional convolution, as torch.nn.functional.conv2d has them.
#pragma once
#include <cstdint>

namespace spx {

// x [batch, groups * channels, height, width], y [batch, rows, out_height, out_width]; the weight is a matrix [rows, channels *
// kernel_h * kernel_w] whose column (c * kernel_h + ky) * kernel_w + kx meets channel c of the row's group. y(oy, ox) meets
// x(oy * stride_h + ky * dilation_h - pad_top, ox * stride_w + kx * dilation_w - pad_left), which is 0 outside of x.
struct Conv2d {
  int64_t batch, groups, channels, height, width;
  int64_t rows, out_height, out_width;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;

  int64_t taps() const { return kernel_h * kernel_w; }
  int64_t planes() const { return groups * channels; }
  int64_t rows_per_group() const { return rows / groups; }
};

}  // namespace spx
