// Tells users, when a server starts, what rounding its weights is expected to cost.
#ifndef KASCADE_SERVER_WEIGHTS_LOSS_H_
#define KASCADE_SERVER_WEIGHTS_LOSS_H_

#include <string>
#include <string_view>

namespace kascade::server {

// One sentence with the loss that docs/quality/formats.md has measured for these weights ("int8",
// "int4"); empty for formats that round nothing or hardly anything (f32, bf16, native).
std::string weights_loss_line(std::string_view weights);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_WEIGHTS_LOSS_H_
