// Generate and the token calls on the wire ↔ the core. Errors are INVALID_ARGUMENT for what the
// core's types cannot express; all else is checked after them.
#ifndef KASCADE_SERVER_GRPC_TRANSLATE_GENERATE_H_
#define KASCADE_SERVER_GRPC_TRANSLATE_GENERATE_H_

#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/sampling/scored_token.h"
#include "engine/tokenizer/chat.h"
#include "kascade/v1/chat.pb.h"
#include "kascade/v1/generate.pb.h"
#include "server/core/generation.h"
#include "server/grpc/errors.h"

namespace kascade::server {

// Points into `in`. `layers` of the model.
absl::StatusOr<core::GenerationRequest> read_generate(const v1::GenerateRequest& in, int32_t layers,
                                                      absl::Time deadline);
// How a client knows the fields that the core finds at fault.
std::vector<FieldName> generate_fields(const v1::GenerateRequest& in);

// The columns that come back beside the text.
struct GenerateColumns {
  bool prompt_ids = false;
  bool token_ids = false;
  bool logprobs = false;  // and ranks
  bool top = false;
};
GenerateColumns read_columns(const v1::ResponseOptions& in);

void to_proto(const core::GenerationStarted& started, const GenerateColumns& columns,
              v1::GenerateStarted& out);
void to_proto(core::GenerationDelta delta, const GenerateColumns& columns, v1::GenerateDelta& out);
void to_proto(const core::GenerationFinished& finished, v1::GenerateFinished& out);
void to_proto(const std::vector<Candidate>& candidates, v1::TopCandidates& out);
v1::ChatFormat to_proto(ChatFormat format);

// Of a message with the optional fields add_bos and parse_special_tokens.
template <typename Request>
core::PromptOptions read_prompt_options(const Request& in) {
  core::PromptOptions options;
  if (in.has_add_bos()) options.add_bos = in.add_bos();
  if (in.has_parse_special_tokens()) options.parse_special_tokens = in.parse_special_tokens();
  return options;
}

template <typename Field>
std::span<const Token> span_of(const Field& ids) {
  return {ids.data(), static_cast<size_t>(ids.size())};
}

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_TRANSLATE_GENERATE_H_
