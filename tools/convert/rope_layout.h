// Converts between the two rotary layouts. Meta, llama2.c and llama.cpp rotate neighbouring
// components (2p, 2p+1) of a head; Hugging Face and this engine rotate components (p, p +
// head_dim/2). The rows of the query and key projections are stored in the corresponding order, so
// conversion permutes the rows within each head.
#ifndef KASCADE_TOOLS_CONVERT_ROPE_LAYOUT_H_
#define KASCADE_TOOLS_CONVERT_ROPE_LAYOUT_H_

#include <cstdint>

namespace kascade::convert {

// Returns the row of the neighbouring layout that becomes row `row` of the half-split layout. Rows
// are counted through all heads.
constexpr int64_t neighbouring_row(int64_t row, int64_t head_dim) {
  const int64_t head = row / head_dim;
  const int64_t in_head = row % head_dim;
  const int64_t component = in_head / (head_dim / 2);
  const int64_t pair = in_head % (head_dim / 2);
  return head * head_dim + 2 * pair + component;
}

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_ROPE_LAYOUT_H_
