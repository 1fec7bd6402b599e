// The configuration as text: for --print-config, for the log, and for the client.
#ifndef KASCADE_SERVER_CONFIGURATION_TEXT_H_
#define KASCADE_SERVER_CONFIGURATION_TEXT_H_

#include <string>
#include <vector>

#include "server/config.h"
#include "server/core/configured_options.h"
#include "server/grpc/server.h"
#include "server/log/record.h"

namespace kascade::server {

// A file that --config reads, with the source of each value in a comment.
std::string yaml_text(const std::vector<core::ConfiguredOption>& options);
// {"options": [{"name", "value", "source", "reloadable"}, …]}
std::string json_text(const std::vector<core::ConfiguredOption>& options);
// For the record at the start: the value of each option, and its source where it is not the
// default.
logging::Fields option_fields(const std::vector<core::ConfiguredOption>& options);

// What runs: the options after all that was derived from them, such as ports and limits.
logging::Fields serving_fields(const Configuration& configuration, Server& server);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_CONFIGURATION_TEXT_H_
