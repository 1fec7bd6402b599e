// What programs owe to whoever reads their standard output: to fail if something of it was lost.
#ifndef KASCADE_TOOLS_TERMINAL_STANDARD_OUTPUT_H_
#define KASCADE_TOOLS_TERMINAL_STANDARD_OUTPUT_H_

namespace kascade::client {

// To be called first of all. A standard stream that is closed would otherwise give its number to
// the next file that is opened, and what is printed would land in that file. Writing to a standard
// output that was closed then fails.
void keep_standard_streams();

// Writes what waits in the buffer. If anything that was printed did not reach standard output,
// prints "PROGRAM: DATA_LOSS: standard output: reason" to standard error and returns false.
bool finish_standard_output(const char* program);

}  // namespace kascade::client

#endif  // KASCADE_TOOLS_TERMINAL_STANDARD_OUTPUT_H_
