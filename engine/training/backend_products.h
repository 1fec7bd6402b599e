// Products of matrices computed by a backend.
#ifndef KASCADE_ENGINE_TRAINING_BACKEND_PRODUCTS_H_
#define KASCADE_ENGINE_TRAINING_BACKEND_PRODUCTS_H_

#include <memory>

#include "engine/backend/backend.h"
#include "engine/training/rows.h"

namespace kascade::training {

// `backend` must have f32 weights and outlive the result.
std::unique_ptr<Products<float>> make_backend_products(Backend& backend);

}  // namespace kascade::training

#endif  // KASCADE_ENGINE_TRAINING_BACKEND_PRODUCTS_H_
