// The options of kascade-server, their ranges and defaults, for server/configure.cc.
#ifndef KASCADE_SERVER_OPTION_PARSER_H_
#define KASCADE_SERVER_OPTION_PARSER_H_

#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "server/config.h"

namespace kascade::server {

// For one parse: what its options set is a part of it.
struct OptionParser {
  Configuration configuration{};
  CLI::App app{"Serves a Llama model over gRPC, with Kascade sparse attention.", "kascade-server"};

  OptionParser();
  OptionParser(const OptionParser&) = delete;
  OptionParser& operator=(const OptionParser&) = delete;

  // Throws CLI::ParseError.
  void parse(std::vector<std::string> arguments);
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_OPTION_PARSER_H_
