// Attention on the wire ↔ attention in the core.
#ifndef KASCADE_SERVER_GRPC_TRANSLATE_ATTENTION_H_
#define KASCADE_SERVER_GRPC_TRANSLATE_ATTENTION_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/request.h"
#include "kascade/v1/attention.pb.h"
#include "server/core/attention.h"
#include "server/grpc/errors.h"

namespace kascade::server {

struct AttentionSources {
  std::optional<core::AttentionSource> attention{};      // of the run, or of the first run
  std::optional<core::AttentionSource> compared_with{};  // set: a comparison
};

// INVALID_ARGUMENT: fields that contradict each other, an unset or unknown kind of baseline. Ranges
// are the engine's to check. `layers` of the model: the default dense layers end there.
absl::StatusOr<AttentionSources> read_attention(const v1::AttentionOptions& in, int32_t layers,
                                                bool may_compare);
// One way to attend, at `field`.
absl::StatusOr<core::AttentionSource> read_choice(const v1::AttentionChoice& in,
                                                  const std::string& field, int32_t layers);
// How a client knows the fields that the engine finds at fault.
std::vector<FieldName> attention_fields(const v1::AttentionOptions& in);

v1::AttentionMode mode_of(const AttentionChoice& choice);  // DENSE or SPARSE
void to_proto(const AttentionChoice& choice, v1::AttentionChoice& out);
// What a run read. `mode`: of the request.
v1::AttentionReport report_attention(const AttentionCounts& counts, const AttentionChoice& choice,
                                     v1::AttentionMode mode);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_TRANSLATE_ATTENTION_H_
