// The stream of a Generate.
#ifndef KASCADE_SERVER_GRPC_GENERATE_CALL_H_
#define KASCADE_SERVER_GRPC_GENERATE_CALL_H_

#include <cstddef>
#include <vector>

#include "kascade/v1/generate.pb.h"
#include "server/core/generation.h"
#include "server/core/limits.h"
#include "server/grpc/stream_call.h"
#include "server/grpc/translate_generate.h"

namespace kascade::server {

class GenerateCall final : public StreamCall<v1::GenerateResponse>, public core::GenerationSink {
 public:
  GenerateCall(ServerContext& context, const v1::GenerateRequest& request)
      : StreamCall(context, "Generate"),
        columns_(read_columns(request.response())),
        fields_(generate_fields(request)),
        generation_(context, *this, record().arrival()) {}

  void start(const v1::GenerateRequest& request, absl::Time deadline);

 private:
  void cancelled() override { generation_.cancel(); }
  size_t max_unsent_bytes() const override { return core::kMaxUnsentBytes; }

  void started(const core::GenerationStarted& started) override;
  void delta(core::GenerationDelta delta) override;
  void finished(const core::GenerationFinished& finished) override;
  void ended(const absl::Status& status) override;

  const GenerateColumns columns_;
  const std::vector<FieldName> fields_;
  core::Generation generation_;
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_GENERATE_CALL_H_
