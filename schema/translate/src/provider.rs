//! Names of model providers.

use std::borrow::Cow;

/// The current name of a provider that the conventions have renamed. The name as it was sent stays in its attribute.
pub fn current_name(name: Cow<'_, str>) -> Cow<'_, str> {
    let current = match &*name {
        "az.ai.openai" => "azure.ai.openai",
        "az.ai.inference" => "azure.ai.inference",
        "vertex_ai" => "gcp.vertex_ai",
        "gemini" => "gcp.gemini",
        "xai" => "x_ai",
        "mistralai" => "mistral_ai",
        // LangSmith's OTel mode names itself as the provider where it does not know the provider.
        "langchain" => "",
        _ => return name,
    };
    Cow::Borrowed(current)
}
