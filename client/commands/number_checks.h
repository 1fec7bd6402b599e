// Checks of the numbers that users type. CLI11's own conversions take nan and inf, and cut a number
// that is too large.
#ifndef KASCADE_CLIENT_COMMANDS_NUMBER_CHECKS_H_
#define KASCADE_CLIENT_COMMANDS_NUMBER_CHECKS_H_

#include <CLI/App.hpp>
#include <cstdint>
#include <string>

namespace kascade::client {

// Validators for CLI11. The text must be a decimal number between the two ends, which the message
// names.
CLI::Validator whole_number(int64_t least, int64_t most);
CLI::Validator number_between(double least, double most);
// "" for a number that 64 bits without a sign hold, else an error message.
std::string unsigned_number(const std::string& text);

// Gives every option of the program that takes a whole number or a floating-point one, and whose
// type name is still CLI11's, a check that its text is one and fits. Options with a type name of
// their own have their own check.
void check_numbers(CLI::App& app);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_COMMANDS_NUMBER_CHECKS_H_
