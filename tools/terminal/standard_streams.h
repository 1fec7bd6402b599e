// Standard input, output and error as programs find them: open, full or closed.
#ifndef KASCADE_TOOLS_TERMINAL_STANDARD_STREAMS_H_
#define KASCADE_TOOLS_TERMINAL_STANDARD_STREAMS_H_

#include <functional>
#include <string>

namespace kascade::client {

// Opens those that are closed, so that no file or socket of the program takes their place and is
// written to by mistake. What is then written to standard output fails. Also lets writing to a
// closed pipe fail instead of ending the process. Call it first in main.
void open_standard_streams();

// Writes out what is buffered for standard output. Returns why anything that was written to it, now
// or before, was lost: "No space left on device"; empty if nothing was.
std::string standard_output_error();

// Runs `body`, which returns an exit code, and returns that code. Where standard output lost
// anything, an exit code of 0 becomes 1 and standard error tells "PROGRAM: DATA_LOSS: …".
int run_with_standard_output(const char* program, const std::function<int()>& body);

}  // namespace kascade::client

#endif  // KASCADE_TOOLS_TERMINAL_STANDARD_STREAMS_H_
