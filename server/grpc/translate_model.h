// What GetModelInfo tells.
#ifndef KASCADE_SERVER_GRPC_TRANSLATE_MODEL_H_
#define KASCADE_SERVER_GRPC_TRANSLATE_MODEL_H_

#include "kascade/v1/inference_service.pb.h"
#include "server/core/server_context.h"

namespace kascade::server {

v1::GetModelInfoResponse describe_model(const core::ServerContext& context);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_TRANSLATE_MODEL_H_
